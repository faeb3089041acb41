"""``ksi blame``, ``bisect``, ``show --diff`` and ``replay``, as processes that talk with a real daemon."""

from pathlib import Path

from tests.cli.processes import Cli


def test_what_wrote_a_value_what_made_it_true_and_what_is_not_the_same(ksi: Cli) -> None:
    for number in (1, 2):
        ksi.records("send", "state:set", "key=a", f"value:={number}", "namespace=past")
    first, second = ksi.records("log", "--stream", "state/past")

    value, request, fact = ksi.text("blame", "state/past", "a").splitlines()
    assert value == "a = 2"
    assert request.startswith(f"@{second['position'] - 1}  state:set  request")
    assert fact.startswith(f"└─ @{second['position']}  state:value_was_set")

    made, was, now = ksi.text("bisect", "last", "--where", "a == 2").splitlines()
    assert (made[: len(str(second["position"])) + 1], was, now) == (f"@{second['position']}", "- a: 1", "+ a: 2")
    assert ksi("bisect", "last", "--where", "a == 3").returncode == 1

    places = ("--at", f"@{first['position']}", "--diff", f"@{second['position']}")
    assert ksi.text("show", "state/past", *places).splitlines() == ["- a: 1", "+ a: 2"]
    assert ksi("show", "state/past", "--diff", "@1").returncode == 2
    (then,) = ksi.records("show", "state/past", "--at", first["recorded_at"])
    assert (then["at"], then["state"]) == (first["position"], {"a": 1})
    assert ksi("show", "state/past", "--at", "1h").returncode == 1, "an hour ago there was nothing"


def test_a_run_is_repeated_and_a_handler_that_has_changed_diverges(ksi: Cli, tmp_path: Path) -> None:
    shop = tmp_path / "shop.py"
    shop.write_text(SHOP)
    ksi.records("plugin", "load", str(shop))
    ksi.records("send", "shop:sell", "price:=3")
    said = ksi.text("replay", "last")
    assert said.startswith("identical: 1 requests, 1 facts, 0 chunks, 0 effects; 0 calls")
    shop.write_text(SHOP.replace("price}", "price + 1}"))
    done = ksi("replay", "last", "--no-json")
    assert done.returncode == 1
    was, came = done.stdout.splitlines()
    assert ('"data":{"price":3}' in was, '"data":{"price":4}' in came) == (True, True)
    assert "[replay_divergence]" in done.stderr


SHOP = """
from ksi import AsyncPlugin, EventContext, event
from ksi.core.events import NewEvent


class Shop(AsyncPlugin):
    name = "shop"

    @event("shop:sell")
    async def sell(self, price: int, context: EventContext) -> int:
        context.append("shop/1", NewEvent(name="shop:sold", data={"price": price}))
        return price
"""
