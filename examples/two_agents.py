"""Two agents write a story by turns; every word is in the log before it is seen. Start a daemon with ``ksi start``."""

import asyncio

from ksi import EventClient

ROUNDS = 2


async def turn(ksi: EventClient, agent: str, text: str) -> str:
    """What ``agent`` says to ``text``, shown as it comes."""
    print(f"\n[{agent}] ", end="")
    async with ksi.stream("agent:send_message", agent=agent, text=text) as stream:
        async for chunk in stream:
            print(chunk.data["text"], end="", flush=True)
    return str(stream.end["text"])


async def main() -> None:
    async with EventClient() as ksi:
        for agent in ("ada", "bob"):
            await ksi.request("agent:spawn", agent=agent, system="You write one sentence of a story.", max_tokens=60)
        text = "A fox finds a key in the snow. Go on."
        for _ in range(ROUNDS):
            for agent in ("ada", "bob"):
                text = await turn(ksi, agent, text)
        for agent in ("ada", "bob"):
            await ksi.request("agent:terminate", agent=agent)


if __name__ == "__main__":
    asyncio.run(main())
