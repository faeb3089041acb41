"""``ksi blame``, ``ksi bisect`` and ``ksi show --diff``, as processes that talk with a real daemon."""

from tests.cli.processes import Cli


def test_what_wrote_a_value_what_made_it_true_and_what_is_not_the_same(ksi: Cli) -> None:
    for value in (1, 2):
        ksi.records("send", "state:set", "key=a", f"value:={value}", "namespace=past")
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
