"""The configuration: what can be set, and where each value came from.

Later sources win: defaults, ``ksi.toml`` of the home, environment (``KSI_STORE__DURABILITY=normal``), flags. Nothing
unknown is passed over: a typing error in a name would otherwise be a default that nobody wanted.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from ksi.core.errors import ConfigError
from ksi.core.events import ArchiveCategory
from ksi.core.home import Home

DEFAULT = "default"
OPEN_PROFILE = "open"
_PREFIX, _SEPARATOR = "KSI_", "__"

Count = Annotated[int, Meta(gt=0)]
Rate = Annotated[float, Meta(gt=0)]
Seconds = Annotated[float, Meta(gt=0)]
Days = Annotated[float, Meta(gt=0, le=36_525)]
ServerName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
_Path = tuple[str, ...]


class Secret:
    """A text that is shown nowhere: not by ``print``, not in a log, not by ``ksi config show``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one who must send it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of ``ksi.toml``."""


class RetentionSection(Section, frozen=True):
    """Days after which something leaves the log of itself, for a file in ``directory``; without a number it stays.

    The others can not leave: states are folded from facts, retries are answered by requests and outcomes.
    """

    chunks_days: Days | None = None
    effects_days: Days | None = None
    directory: str | None = None

    @property
    def days(self) -> Mapping[ArchiveCategory, float]:
        """For each category that leaves."""
        wanted: dict[ArchiveCategory, float | None] = {"chunks": self.chunks_days, "effects": self.effects_days}
        return {category: days for category, days in wanted.items() if days is not None}


class StoreSection(Section, frozen=True):
    """``full`` waits for the disk at each commit, ``normal`` may lose the last ones with the power.

    ``url`` is a PostgreSQL database, as in ``postgresql://user:password@host/database``, that holds the log in place of
    the home.
    """

    url: Secret | None = None
    durability: Literal["full", "normal"] = "full"
    retention: RetentionSection = RetentionSection()


class LimitsSection(Section, frozen=True):
    """Bounds; ``rate_per_second`` and ``burst`` are for each principal, at the door."""

    frame_bytes_max: Count = 1 << 20
    in_flight_per_connection: Count = 16_384
    in_flight: Count = 65_536
    inbound_bytes_max: Count = 256 << 20
    rate_per_second: Rate = 500_000.0
    burst: Count = 1_000_000
    stall_timeout: Seconds = 60.0
    disconnect_grace: Seconds = 10.0  #: in which who was cut off from a stream can come back to it
    stop_timeout: Seconds = 10.0  #: for what runs when the daemon stops


class HttpSection(Section, frozen=True):
    """HTTP beside the Unix socket. Port 0 takes a free one; ``http.json`` in the home says which.

    Another host than a loopback one needs a certificate, or ``expose = true``: whoever listens on the way reads tokens.
    ``hosts`` are names under which the daemon may be asked, beside ``localhost``; ``socket`` is a Unix socket that
    speaks HTTP too.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 7474
    hosts: tuple[str, ...] = ()
    socket: str | None = None
    expose: bool = False
    certificate: str | None = None
    certificate_key: str | None = None
    connections_max: Count = 2_048
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 30.0


class LogSection(Section, frozen=True):
    """What the daemon says of itself, in ``logs/`` and, on a terminal, on stderr; ``json`` is for the file.

    A file of ``file_bytes_max`` is put aside; ``files_max`` stay, the one that is written among them.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    json: bool = False
    file_bytes_max: Count = 10 << 20
    files_max: Count = 5


class TraceSection(Section, frozen=True):
    """Spans of requests. What is kept is chosen at the end: errors, what took ``slow`` seconds, a ``share`` of others.

    ``endpoint`` takes them by OTLP, as in ``http://127.0.0.1:4318/v1/traces``.
    """

    enabled: bool = False
    share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    slow: Seconds = 1.0
    endpoint: str | None = None


class PluginsSection(Section, frozen=True):
    """``load`` names ``module:Class`` or files; ``disable`` names plugins that are found and not wanted.

    The timeouts are for ``initialize`` and ``shutdown`` of each.
    """

    load: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    initialize_timeout: Seconds = 30.0
    shutdown_timeout: Seconds = 5.0


class OpenAISection(Section, frozen=True):
    """A server that speaks OpenAI's protocol. Without ``api_key`` the variable that ``api_key_env`` names is asked."""

    base_url: str | None = None
    api_key: Secret | None = None
    api_key_env: str = "OPENAI_API_KEY"
    models: tuple[str, ...] = ()


class AnthropicSection(Section, frozen=True):
    """Anthropic, or a server that speaks as it does. ``base_url`` ends before ``/v1``."""

    base_url: str | None = None
    api_key: Secret | None = None
    api_key_env: str = "ANTHROPIC_API_KEY"
    models: tuple[str, ...] = ()


class ClaudeSection(Section, frozen=True):
    """The Claude CLI: ``command`` by name or path, and the models that it may be asked for."""

    command: str = "claude"
    models: tuple[str, ...] = ("sonnet", "opus", "haiku")


class LocalSection(Section, frozen=True):
    """The embedded model: threads that compute, and answers at the same time."""

    threads: Count = 1
    slots: Count = 2


class ProvidersSection(Section, frozen=True):
    """Who completes; ``default`` is used where a request names nobody.

    For rehearsals, and labelled as that: ``script`` holds texts that are given in turn, ``replay`` is a file of
    recorded answers.
    """

    default: str = "local"
    openai: OpenAISection = OpenAISection()
    anthropic: AnthropicSection = AnthropicSection()
    claude: ClaudeSection = ClaudeSection()
    local: LocalSection = LocalSection()
    script: tuple[str, ...] = ()
    replay: str | None = None


class PriceSection(Section, frozen=True):
    """What a model costs: dollars for a million tokens read, and written."""

    input: float
    output: float


class ProfileSection(Section, frozen=True):
    """Event patterns that a profile allows; ``deny`` wins, then ``ask``, and what no pattern names is denied.

    A request that a pattern of ``ask`` names waits for somebody's word.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()


class PermissionSection(Section, frozen=True):
    """``principals`` gives profiles to principals, as in ``"uid:1000" = "reader"``; all others have the default one."""

    default_profile: str = OPEN_PROFILE
    profiles: dict[str, ProfileSection] = {}
    principals: dict[str, str] = {}


class SandboxSection(Section, frozen=True):
    """Commands in the sandboxes of agents. ``confinement`` is the least that the system must give, else none runs.

    ``full`` is Landlock of Linux 6.12; with ``partial`` (Linux 6.2) a command can send signals to what else the user
    runs, with ``none`` it can do all that the user can. ``readable`` is beside what programs need to run.
    """

    confinement: Literal["full", "partial", "none"] = "full"
    readable: tuple[str, ...] = ()
    network: bool = False
    memory_bytes_max: Count = 2 << 30  #: of each process
    file_bytes_max: Count = 256 << 20
    files_max: Count = 256  #: open ones
    processes_max: Count = 64


class McpSection(Section, frozen=True):
    """A server of MCP, whose tools agents may have: ``command`` starts one for each agent, or ``url`` is where it is.

    The child has nothing of the daemon's environment but where things are, and ``environment``. ``timeout`` is for one
    call, ``start_timeout`` until it has said which tools there are.
    """

    command: tuple[str, ...] = ()
    environment: dict[str, Secret] = {}
    directory: str | None = None
    url: str | None = None
    headers: dict[str, Secret] = {}
    timeout: Seconds = 60.0
    start_timeout: Seconds = 30.0

    def __post_init__(self) -> None:
        if bool(self.command) == (self.url is not None):
            raise ValueError("say command or url, one of them")


class CompletionSection(Section, frozen=True):
    """``per_provider`` completions run at the same time, ``queue_size_max`` more wait; limits are in seconds.

    ``failover``: who is asked in turn, as ``provider`` or ``provider/model``, where one can not answer and nobody was
    named. A provider that says when to come back is waited for at most ``retry_after_max`` seconds.
    """

    per_provider: Count = 4
    queue_size_max: Count = 256
    first_token_timeout: Seconds = 120.0
    between_tokens_timeout: Seconds = 30.0
    failover: tuple[str, ...] = ()
    retry_after_max: Annotated[float, Meta(ge=0)] = 30.0


class Settings(Section, frozen=True):
    """All tables; ``[plugin.NAME]`` belongs to the plugin of that name."""

    store: StoreSection = StoreSection()
    limits: LimitsSection = LimitsSection()
    http: HttpSection = HttpSection()
    log: LogSection = LogSection()
    trace: TraceSection = TraceSection()
    plugins: PluginsSection = PluginsSection()
    providers: ProvidersSection = ProvidersSection()
    permission: PermissionSection = PermissionSection()
    completion: CompletionSection = CompletionSection()
    sandbox: SandboxSection = SandboxSection()
    mcp: dict[ServerName, McpSection] = {}
    prices: dict[str, PriceSection] = {}
    plugin: dict[str, dict[str, Any]] = {}


class Config(Settings, frozen=True, kw_only=True):
    """The settings of the daemon in ``home``; ``sources`` says of each that is not a default where it came from."""

    home: Home
    sources: Mapping[str, str] = {}

    def values(self) -> Iterator[tuple[str, Any, str]]:
        """Each value with its name (``limits.in_flight``) and its source, in declared order."""
        for table in Settings.__struct_fields__:
            for path, value in _leaves(getattr(self, table), (table,)):
                name = ".".join(path)
                yield name, value, self.sources.get(name, DEFAULT)


def load(home: Home, environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> Config:
    """The configuration of ``home``.

    Args:
        flags: Values by dotted name, as text or as they are. Lists among them add to what other sources say.

    Raises:
        ConfigError: A file, a variable or a flag is wrong; ``where`` names it.
    """
    collected = _Collected(str(home.config_file))
    collected.put(("permission", "profiles", OPEN_PROFILE, "allow"), ["*"], DEFAULT)
    for path, value in _file(home):
        collected.put(path, value, collected.file)
    for variable, path in _variables(environ):
        collected.put(path, _from_text(environ[variable], path, variable), variable)
    for name, value in (flags or {}).items():
        collected.add(name, value)
    _take_provider_variables(collected, environ)
    return collected.config(home)


class _Collected:
    """Raw values of all sources, laid over each other."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.tables: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def put(self, path: _Path, value: Any, source: str) -> None:
        table = self.tables
        for name in path[:-1]:
            below = table.setdefault(name, {})
            if not isinstance(below, dict):
                raise ConfigError(f"{name} is no table", where=source)
            table = below
        if value == {}:
            table.setdefault(path[-1], {})  # a table that says nothing leaves what is there
            return
        table[path[-1]] = value
        self.sources[".".join(path)] = source

    def add(self, name: str, value: Any) -> None:
        """A flag."""
        path, where = tuple(name.split(".")), f"flag {name}"
        if isinstance(value, str):
            value = _from_text(value, path, where)
        before = self.get(path)
        if isinstance(before, list) and isinstance(value, list | tuple):
            value, where = [*before, *value], f"{self.sources[name]}, {where}"
        self.put(path, value, where)

    def get(self, path: _Path) -> Any:
        """The raw value; None where no source gives one."""
        value: Any = self.tables
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def config(self, home: Home) -> Config:
        try:
            settings = msgspec.convert(self.tables, Settings, dec_hook=_secret)
        except msgspec.ValidationError as error:
            raise self._located(str(error)) from None
        tables = {name: getattr(settings, name) for name in Settings.__struct_fields__}
        return Config(home=home, sources=self.sources, **tables)

    def _located(self, said: str) -> ConfigError:
        """From what msgspec says: "Expected `int`, got `str` - at `$.limits.in_flight`"."""
        message, _, place = said.partition(" - at `$.")
        name = place.rstrip("`").partition("[")[0]
        if "unknown field" in message:
            name = ".".join(filter(None, (name, message.split("`")[1])))
        source = next((where for path, where in self.sources.items() if f"{path}.".startswith(f"{name}.")), self.file)
        return ConfigError(f"{name}: {message}" if name else message, where=source)


def _file(home: Home) -> Iterator[tuple[_Path, Any]]:
    try:
        text = home.config_file.read_text()
        tables = tomllib.loads(text)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ConfigError(str(error), where=str(home.config_file)) from None
    for name, table in tables.items():
        yield from _leaves(table, (name,))


def _leaves(value: Any, path: _Path) -> Iterator[tuple[_Path, Any]]:
    """What stands in tables, in structs and in dicts, with its way there; an empty table too."""
    if isinstance(value, Section):
        value = {name: getattr(value, name) for name in value.__struct_fields__}
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for name, below in value.items():
        yield from _leaves(below, (*path, name))


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, _Path]]:
    """``KSI_STORE__DURABILITY`` is ``store.durability``; names without the double line belong to somebody else."""
    for variable in sorted(environ):
        if variable.startswith(_PREFIX) and _SEPARATOR in variable:
            yield variable, tuple(variable.removeprefix(_PREFIX).lower().split(_SEPARATOR))


def _from_text(text: str, path: _Path, where: str) -> Any:
    """The value that ``text`` stands for; lists are separated by commas."""
    kind = _type_at(path, where)
    if get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is Any:
        return _json_or_text(text)
    try:
        return msgspec.convert(text, kind, strict=False, dec_hook=_secret)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{'.'.join(path)}: {error}", where=where) from None


def _json_or_text(text: str) -> Any:
    """For plugins' own settings, whose types are not known here."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _type_at(path: Sequence[str], where: str) -> Any:
    kind: Any = Settings
    for name in path:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
            continue
        fields = msgspec.structs.fields(kind) if isinstance(kind, type) and issubclass(kind, Section) else ()
        kind = next((field.type for field in fields if field.name == name), None)
        if kind is None:
            raise ConfigError(f"there is no setting {'.'.join(path)}", where=where)
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, Section)):
        raise ConfigError(f"{'.'.join(path)} is a table: name a value in it", where=where)
    return kind


def _take_provider_variables(collected: _Collected, environ: Mapping[str, str]) -> None:
    """``OPENAI_BASE_URL`` and the key's variable, as every program reads them, where nothing of ours says more."""
    sections: dict[str, OpenAISection | AnthropicSection] = {"openai": OpenAISection(), "anthropic": AnthropicSection()}
    for provider, section in sections.items():
        key_variable = collected.get(("providers", provider, "api_key_env")) or section.api_key_env
        for name, variable in (("base_url", f"{provider.upper()}_BASE_URL"), ("api_key", key_variable)):
            path = ("providers", provider, name)
            if collected.get(path) is None and isinstance(variable, str) and environ.get(variable):
                collected.put(path, environ[variable], variable)


def _secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    if isinstance(value, kind):
        return value
    raise ValueError(f"expected a text, got {type(value).__name__}")
