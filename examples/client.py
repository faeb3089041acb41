"""A client in ten lines: any event of a running daemon, and an answer as it comes. Start one with ``ksi start``."""

import asyncio

from ksi import EventClient


async def main() -> None:
    async with EventClient() as ksi:
        print(await ksi.request("state:set", key="colour", value="blue"))
        async for chunk in ksi.stream("completion:create", prompt="Once upon a time", max_tokens=20):
            print(chunk.data["text"], end="", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
