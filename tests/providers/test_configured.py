"""The desk that a configuration makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.core.config import Config, ProvidersSection, load
from ksi.core.errors import ConfigError, NotFoundError, ProviderAuthError, ValidationError
from ksi.core.home import Home
from ksi.providers.base import CompletionRequest, Message, TextDelta, TextPart
from ksi.providers.configured import desk_of
from ksi.providers.desk import Choice
from ksi.providers.model import SMOLLM2
from ksi.providers.replay import Recording, request_hash, write_recordings
from tests.providers.faulty_server import STREAM_END, STREAM_HEAD, FaultyServer, answer, event, send, token


def configured(tmp_path: Path, **flags: object) -> Config:
    return load(Home(tmp_path), {}, flags)


async def text_of(choice: Choice, **more: object) -> str:
    messages = (Message(role="user", parts=(TextPart(text="Go."),)),)
    request = CompletionRequest(messages=messages, model=choice.model, **more)  # type: ignore[arg-type]  # fields of it
    return "".join([chunk.text async for chunk in choice.provider.stream(request) if isinstance(chunk, TextDelta)])


async def test_the_embedded_model_answers_where_nobody_is_named(tmp_path: Path) -> None:
    desk = desk_of(configured(tmp_path))
    choice = await desk.choose(None, None)
    assert (choice.provider.name, choice.model) == ("local", SMOLLM2.name)
    assert list(desk.offers) == ["local", "openai", "anthropic", "claude"]
    assert desk.offers["local"].concurrent == ProvidersSection().local.slots
    await desk.release()


async def test_a_server_without_models_of_its_own_choice_wants_one_named(tmp_path: Path) -> None:
    desk = desk_of(configured(tmp_path, **{"providers.openai.models": "small,large"}))
    assert (await desk.choose("openai", None)).model == "small"
    assert (await desk.choose(None, "large")).provider.name == "openai"
    await desk.release()
    with pytest.raises(ValidationError, match="name one"):
        await desk_of(configured(tmp_path)).choose("openai", None)


async def test_a_model_that_is_configured_or_whose_provider_is_named_is_asked_for_without_its_servers_list(
    tmp_path: Path,
) -> None:
    answered = send(STREAM_HEAD, token("Hi", finish="stop"), event(b"[DONE]"), STREAM_END)
    server = FaultyServer([answered, answered])
    async with server.running():
        flags = {"providers.openai.base_url": server.address, "providers.openai.models": "small"}
        desk = desk_of(configured(tmp_path, **flags))
        for choice in (await desk.choose(None, "small"), await desk.choose("openai", "unlisted")):
            assert await choice.sha256() is None
            assert await text_of(choice) == "Hi"
        await desk.release()
    assert [head.partition(" HTTP")[0] for head in server.heads] == ["POST /v1/chat/completions"] * 2


async def test_a_list_that_can_not_be_read_is_asked_for_once_and_done_without(tmp_path: Path) -> None:
    server = FaultyServer([answer(404, {})])
    async with server.running():
        desk = desk_of(configured(tmp_path, **{"providers.openai.base_url": server.address}))
        chosen = [(await desk.choose(None, model)).provider.name for model in ("a", "b", SMOLLM2.name)]
        await desk.release()
    assert (chosen, len(server.heads)) == (["openai", "openai", "local"], 1)


async def test_anthropic_is_asked_with_the_key_and_at_the_address_that_its_own_variables_give(tmp_path: Path) -> None:
    server = FaultyServer([answer(401, {})])
    async with server.running():
        variables = {"ANTHROPIC_BASE_URL": server.address.removesuffix("/v1"), "ANTHROPIC_API_KEY": "the key"}
        desk = desk_of(load(Home(tmp_path), variables))
        with pytest.raises(ProviderAuthError):
            await text_of(await desk.choose("anthropic", "claude-x"))
        await desk.release()
    (head,) = server.heads
    assert head.startswith("POST /v1/messages ")
    assert "x-api-key: the key" in head


async def test_a_server_that_nobody_set_up_is_not_asked_about_a_name_that_may_be_mistyped(tmp_path: Path) -> None:
    desk = desk_of(configured(tmp_path))
    with pytest.raises(NotFoundError) as caught:
        await desk.choose(None, SMOLLM2.name.replace("2", "3"))
    assert caught.value.suggestions == [SMOLLM2.name]


async def test_a_script_gives_its_texts_in_turn_and_goes_on_with_the_one_that_was_begun(tmp_path: Path) -> None:
    (tmp_path / "ksi.toml").write_text('providers.default = "script"\nproviders.script = ["One, two.", "Three."]\n')
    desk = desk_of(configured(tmp_path))
    choice = await desk.choose(None, None)
    assert [await text_of(choice) for _ in range(3)] == ["One, two.", "Three.", "One, two."]
    assert await text_of(choice, continue_text="One,") == " two."
    assert choice.provider.name == "script"


async def test_recorded_answers_are_given_for_the_models_that_they_came_from(tmp_path: Path) -> None:
    messages = (Message(role="user", parts=(TextPart(text="Go."),)),)
    asked = CompletionRequest(messages=messages, model="large")
    recording = Recording(request_hash=request_hash(asked), model="large", chunks=(TextDelta(text="Gone."),))
    write_recordings(tmp_path / "recorded", [recording])
    desk = desk_of(configured(tmp_path, **{"providers.replay": str(tmp_path / "recorded")}))
    assert await text_of(await desk.choose("replay", "large")) == "Gone."
    with pytest.raises(NotFoundError) as caught:
        await desk.choose("replay", "lange")
    assert caught.value.suggestions == ["large"]


def test_a_default_that_no_provider_has_is_refused_at_once(tmp_path: Path) -> None:
    for setting in ("providers.default", "completion.failover"):
        with pytest.raises(ConfigError, match="there are local, openai, anthropic, claude") as caught:
            desk_of(configured(tmp_path, **{setting: "nope"}))
        assert caught.value.where == setting
    assert desk_of(configured(tmp_path, **{"completion.failover": "claude/sonnet,local"})).failover[1] == "local"


@pytest.mark.parametrize("written", [None, "no JSON", "{}"])
async def test_recordings_that_can_not_be_read_are_an_error_of_the_configuration(
    tmp_path: Path, written: str | None
) -> None:
    file = tmp_path / "recorded"
    if written is not None:
        file.write_text(written)
    with pytest.raises(ConfigError, match=r"providers\.replay"):
        await desk_of(configured(tmp_path, **{"providers.replay": str(file)})).choose("replay", "large")
