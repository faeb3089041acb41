"""autogen-core's runtime in the process: a typed message to an agent, its answer back."""

from __future__ import annotations

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, message_handler

from ksi.bench.measure import Sample
from ksi.bench.peer_clients import dispatched
from ksi.bench.plugin import ItemModel, item


class Echo(RoutedAgent):  # type: ignore[misc]  # the library is not followed: it may not be installed
    @message_handler  # type: ignore[untyped-decorator]  # as above
    async def echo(self, message: ItemModel, ctx: MessageContext) -> ItemModel:
        return message


async def run(count: int) -> Sample:
    runtime = SingleThreadedAgentRuntime()
    await Echo.register(runtime, "echo", lambda: Echo("echo"))
    runtime.start()
    message, to = ItemModel(**item(1)), AgentId("echo", "default")
    sample = await dispatched(lambda: runtime.send_message(message, to), count)
    await runtime.stop()
    return sample
