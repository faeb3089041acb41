"""Settings come from where they were said, and what is wrong is named with its place."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core.config import Config, Secret, Settings, load
from ksi.core.errors import ConfigError
from ksi.core.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def write(home: Home, text: str) -> None:
    home.config_file.write_text(text)


def source_of(config: Config, name: str) -> str:
    return next(source for found, _, source in config.values() if found == name)


def test_without_any_source_all_are_defaults(home: Home) -> None:
    config = load(home, {})
    assert config.store.durability == "full"
    assert config.limits.in_flight_per_connection == 16_384
    assert {source for _, _, source in config.values()} == {"default"}


def test_a_later_source_wins_and_is_named(home: Home) -> None:
    write(home, '[store]\ndurability = "normal"\n[limits]\nin_flight = 10\nburst = 11\n')
    config = load(home, {"KSI_LIMITS__IN_FLIGHT": "20", "KSI_LIMITS__BURST": "21"}, {"limits.burst": "31"})
    assert (config.store.durability, config.limits.in_flight, config.limits.burst) == ("normal", 20, 31)
    assert source_of(config, "store.durability") == str(home.config_file)
    assert source_of(config, "limits.in_flight") == "KSI_LIMITS__IN_FLIGHT"
    assert source_of(config, "limits.burst") == "flag limits.burst"


def test_a_flag_adds_to_a_list(home: Home) -> None:
    write(home, '[plugins]\nload = ["one:One"]\n')
    config = load(home, {}, {"plugins.load": ["two:Two"]})
    assert config.plugins.load == ("one:One", "two:Two")


def test_a_variable_separates_a_list_by_commas(home: Home) -> None:
    assert load(home, {"KSI_PLUGINS__DISABLE": "a, b"}).plugins.disable == ("a", "b")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[stor]\n", "stor"),
        ("[store]\ndurabilty = 'full'\n", "store.durabilty"),
        ("[store]\ndurability = 'fully'\n", "store.durability"),
        ("[limits]\nin_flight = 'many'\n", "limits.in_flight"),
        ("[limits]\nin_flight = 0\n", "limits.in_flight"),
        ("[plugins]\nload = ['a:A', 1]\n", "plugins.load"),
        ("[plugin]\ngreeter = 1\n", "plugin"),
        ("store = 1\n", "store"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_the_file(home: Home, text: str, name: str) -> None:
    write(home, text)
    with pytest.raises(ConfigError) as caught:
        load(home, {})
    assert caught.value.where == str(home.config_file)
    assert f"{name}:" in caught.value.message


def test_a_file_that_is_no_toml_is_named(home: Home) -> None:
    write(home, "[store\n")
    with pytest.raises(ConfigError) as caught:
        load(home, {})
    assert caught.value.where == str(home.config_file)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("KSI_LIMITS__IN_FLIGHT", "many"), ("KSI_LIMITS__INFLIGHT", "1"), ("KSI_STOR__X", "1"), ("KSI_LIMITS__", "1")],
)
def test_what_is_wrong_in_the_environment_is_named_with_the_variable(home: Home, variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(home, {variable: value})
    assert caught.value.where == variable


def test_an_unknown_flag_is_named(home: Home) -> None:
    with pytest.raises(ConfigError) as caught:
        load(home, {}, {"limits.inflight": "1"})
    assert caught.value.where == "flag limits.inflight"


def test_variables_without_the_double_line_are_no_settings(home: Home) -> None:
    assert load(home, {"KSI_HOME": "/x", "KSI_MODELS": "/y"}).sources.keys() == {"permission.profiles.open.allow"}


def test_a_key_comes_from_the_variable_that_the_file_names_and_never_prints(home: Home) -> None:
    write(home, '[providers.openai]\napi_key_env = "THEIR_KEY"\n')
    config = load(home, {"THEIR_KEY": "sesame", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    assert config.providers.openai.api_key is not None
    assert config.providers.openai.api_key.reveal() == "sesame"
    assert config.providers.openai.base_url == "http://127.0.0.1:1/v1"
    assert source_of(config, "providers.openai.api_key") == "THEIR_KEY"
    assert "sesame" not in repr(config) + str(list(config.values()))


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret("sesame"))


def test_profiles_of_the_file_stand_beside_the_open_one(home: Home) -> None:
    write(home, '[permission.profiles.reader]\nallow = ["log:"]\n[permission.principals]\n"uid:7" = "reader"\n')
    permission = load(home, {}).permission
    assert permission.profiles.keys() == {"open", "reader"}
    assert permission.principals == {"uid:7": "reader"}


def test_a_plugins_own_table_takes_any_json(home: Home) -> None:
    write(home, '[plugin.greeter]\nwords = ["hello"]\n')
    config = load(home, {"KSI_PLUGIN__GREETER__TIMES": "3", "KSI_PLUGIN__GREETER__TONE": "warm"})
    assert config.plugin == {"greeter": {"words": ["hello"], "times": 3, "tone": "warm"}}


NAMES = [name for name, _, _ in Config(home=Home(Path())).values() if "." in name]


@given(name=st.sampled_from(NAMES), text=st.text(alphabet="01.-aflrtuenox,: ", max_size=8))
def test_any_text_for_any_setting_is_taken_or_refused_by_name(name: str, text: str) -> None:
    variable = "KSI_" + name.upper().replace(".", "__")
    try:
        config = load(Home(Path("nowhere")), {variable: text})
    except ConfigError as error:
        assert error.where == variable  # noqa: PT017  # either way is right, the place must be
    else:
        assert isinstance(config, Settings)
        assert source_of(config, name) == variable


def test_the_home_is_chosen_by_flag_then_variable_then_xdg(tmp_path: Path) -> None:
    environ = {"KSI_HOME": "/variable", "XDG_DATA_HOME": "/xdg"}
    assert Home.choose(tmp_path, environ).path == tmp_path
    assert Home.choose(None, environ).path == Path("/variable")
    assert Home.choose(None, {"XDG_DATA_HOME": "/xdg"}).path == Path("/xdg/ksi")
    assert Home.choose("here", {}).path == Path.cwd() / "here"
