"""The configuration: its keys, where each value comes from, and what is wrong with it.

Order: flags, environment (`MCP_POOLS_<KEY>`, then the seed's `MAHAVISHNU_<KEY>`), the file
of `--config` or of the user's configuration directory, defaults. A key given twice is
taken whole from the first of these; nothing is merged.

An `mcp-pools.yaml` in a working directory is no configuration: an agent may have been
started inside a stranger's clone. It may choose a strategy and lower two defaults.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from mcp_pools.agents import PYTHON, Agent
from mcp_pools.definitions import (
    AuthDefinition,
    EcosystemEntry,
    IntrospectionDefinition,
    LimitDefinition,
    LimitDefinitions,
    PoolDefinition,
    SecretSource,
    encrypted,
)
from mcp_pools.errors import PoolsError, nearest
from mcp_pools.models import Allow, PoolSpec
from mcp_pools.quotas import Limit, Quotas
from mcp_pools.routing import Strategy

PREFIXES: Final = ("MCP_POOLS_", "MAHAVISHNU_")
RESERVED: Final = frozenset(
    {"HOME", "DEPTH", "ATTEMPT", "WORKER", "READ_ONLY", "TOOLSETS", "CONFIG"},
)
"""`MCP_POOLS_` variables that are read elsewhere, or set for child processes."""
WORKING_DIRECTORY_FILE: Final = "mcp-pools.yaml"
_FILE_BYTES: Final = 1 << 20
_STRANGERS_BYTES: Final = 1 << 16
_UNQUOTED: Final = frozenset({"store", "secrets", "events_url"})
"""Keys whose values may hold a password."""

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Every key of the configuration. Durations are seconds, sizes bytes.

    Raises `PoolsError` `invalid_payload` for unknown keys and wrong values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    home: Path = Field(default_factory=lambda: default_home(os.environ))
    """The directory of all state; absolute."""
    store: str | None = Field(None, pattern="^postgres(ql)?://")
    """`postgresql://...`; none: SQLite in `home`."""
    store_lease_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0
    """With PostgreSQL: how long an owner that is not heard of any more keeps others from taking over."""

    pools_enabled: bool = True
    default_pool_type: str = "local"
    pool_routing_strategy: Strategy = "least_loaded"
    memory_aggregation_enabled: bool = True
    memory_sync_interval: Seconds = 60.0
    session_buddy_pool_url: str = "http://localhost:8678/mcp"
    """A Session-Buddy server: finished tasks are synced to it once it is set."""
    akosha_url: str = "http://localhost:8682/mcp"
    """An Akosha server; likewise."""
    session_buddy_token_secret: str | None = None
    akosha_token_secret: str | None = None
    """The names of the secrets that are their bearer tokens; none: they want none."""
    memory_search: bool = False
    """Whether `pool_search` asks them, too."""
    pool_default_min_workers: int = Field(1, ge=0)
    pool_default_max_workers: Count = 10

    pools: dict[str, PoolDefinition] = {}
    """Pools by name; a list whose entries carry a `name` is taken too."""
    ecosystem: list[EcosystemEntry] = []
    """What `pool_discover` looks at beside what this machine names."""
    allow: Allow = Allow()
    secrets: dict[str, SecretSource] = {}
    agents: dict[str, Agent] = {}
    """Agent CLIs by worker type, beside the built-in ones or in their place."""
    task_modules: list[str] = []
    plugins: list[str] = []
    """Task types of other distributions (entry points) to offer, by name."""
    adapters: list[str] = []
    """Pool types of other distributions (entry points) to offer, by name."""
    child_env: list[str] = []
    """Variables that children get from the owner's environment, by name."""

    limits: LimitDefinitions = LimitDefinitions()
    work_stealing: bool = True
    """Whether a pool without work takes over what waits on others and may go anywhere."""
    max_queue: Count = 10_000
    """Tasks that may wait for one pool."""
    max_payload_bytes: Count = 64 << 20
    max_result_bytes: Count = 64 << 20
    worker_memory_limit_bytes: Count | None = None
    """A local worker above it is replaced after its task; none: no limit."""
    retention_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    owner_idle_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    mcp_wait_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 45.0
    mcp_confirm: Literal["ask", "client", "never"] = "ask"
    """Who asks the human of an MCP client before something is lost or leaves this machine.

    `ask`: we do, through the client, and refuse where it cannot. `client`: it does by itself; the
    tools in question are marked so that Claude Code prompts for each call, whatever else it allows
    (headless it refuses them), and a client that does not know the mark asks nobody.
    """
    mcp_result_tokens: int = Field(10_000, ge=1000)
    """What a tool's result over MCP may come to; a longer one is cut and says where the rest is."""
    http_allowed_hosts: list[str] = []
    """`Host` headers that `serve --http` answers beside the loopback names; `name:*` with any port."""
    http_allowed_origins: list[str] = []
    """`Origin` headers of browser pages that it answers, such as `https://pools.example.org`."""
    http_public_url: str | None = Field(None, pattern="^https?://[^/?#]+(/[^?#]*)?$")
    """Where clients find `/mcp` when a proxy stands before it; none: the address listened at."""
    auth: AuthDefinition = AuthDefinition()
    """Who may use `serve --http`; nothing given: whoever reaches it, so loopback only."""
    metrics: bool = True
    """Whether a router counts what it does; if not, there is no `/metrics`, and nothing is sent."""
    metrics_address: str | None = None
    """Loopback `HOST:PORT` where an owner serves `/metrics`, also one that serves no HTTP; none: nowhere."""
    http_drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """How long what runs may go on after `serve --http` was told to end."""
    mcp_task_grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """How long a call waits before a client with the tasks extension gets a task instead."""
    durable_sync: Literal["full", "normal"] = "full"
    default_timeout: Seconds = 300.0
    default_max_attempts: Count = 1
    max_depth: int = Field(2, ge=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What an owner writes into its log from; `debug`: every event."""
    events_url: str | None = Field(None, pattern="^https?://[^/]")
    """Where events are sent to as CloudEvents, in batches; none: nowhere."""

    _config_file: Path | None = PrivateAttr(None)

    def __init__(self, *, _origins: Mapping[str, str] | None = None, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as wrong:
            raise _explained(wrong, _origins or {}) from None

    @property
    def config_file(self) -> Path | None:
        """The file these settings were read from, absolute."""
        return self._config_file

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("agents")
    @classmethod
    def _no_other_python(cls, agents: dict[str, Agent]) -> dict[str, Agent]:
        if PYTHON in agents:
            raise ValueError(f"must not call an agent {PYTHON!r}, the worker type of all other pools")
        return agents

    @field_validator("pools", mode="before")
    @classmethod
    def _by_name(cls, pools: Any) -> Any:
        """A list of definitions becomes a mapping from their names."""
        if not isinstance(pools, list):
            return {} if pools is None else pools
        if not all(isinstance(pool, dict) and isinstance(pool.get("name"), str) for pool in pools):
            raise ValueError("must be a mapping from names to definitions, or a list where each has a name")
        named = {pool["name"]: {k: v for k, v in pool.items() if k != "name"} for pool in pools}
        if len(named) < len(pools):
            raise ValueError("must not name a pool twice")
        return named

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.pool_default_min_workers > self.pool_default_max_workers:
            raise ValueError("must have pool_default_min_workers at most pool_default_max_workers")
        for spec in self.specs().values():
            if spec.min_workers > spec.max_workers:
                raise ValueError(
                    f"must have min_workers at most max_workers in pool {spec.name!r}, "
                    f"which has {spec.min_workers} and {spec.max_workers}"
                )
        return self

    @model_validator(mode="after")
    def _memory_tokens_are_safe(self) -> Self:
        tokens = {"session_buddy_pool_url": self.session_buddy_token_secret}
        for address, secret in (tokens | {"akosha_url": self.akosha_token_secret}).items():
            if secret is not None and secret not in self.secrets:
                raise ValueError(f"must have {secret!r}, the token for {address}, under secrets")
            if secret is not None:
                encrypted(getattr(self, address))
        return self

    def specs(self) -> dict[str, PoolSpec]:
        """The configured pools by name, with the defaults filled in."""
        return {name: self._spec(name, pool) for name, pool in self.pools.items()}

    def fixed_workers(self, name: str) -> int | None:
        """The size a configured pool is fixed at, if it is."""
        return self.pools[name].workers if name in self.pools else None

    def quotas(self) -> Quotas:
        """The limits, at work."""
        named = {
            kind: {name: Limit(**each.model_dump()) for name, each in getattr(self.limits, kind).items()}
            for kind in ("pools", "callers")
        }
        return Quotas(**named)

    def _spec(self, name: str, pool: PoolDefinition) -> PoolSpec:
        """Sizes that are not given stretch to the one that is, so `max_workers: 1` alone is fine."""
        least, most = pool.min_workers, pool.max_workers
        if least is None:
            least = min(self.pool_default_min_workers, most or self.pool_default_min_workers)
        if most is None:
            most = max(self.pool_default_max_workers, least)
        given = pool.model_dump(exclude={"type", "min_workers", "max_workers", "workers"})
        kind = pool.type or self.default_pool_type
        return PoolSpec(name=name, type=kind, min_workers=least, max_workers=most, **given)


def default_home(environ: Mapping[str, str]) -> Path:
    """`$MCP_POOLS_HOME`, else `$MAHAVISHNU_HOME`, else `mcp-pools` in the user's directory for state."""
    if given := environ.get("MCP_POOLS_HOME") or environ.get("MAHAVISHNU_HOME"):
        return Path(given)
    state = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or Path.home(), ".local", "state")
    return Path(state, "mcp-pools")


def load(
    *,
    config_file: str | Path | None = None,
    home: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
    user_config_dir: str | Path | None = None,
) -> Settings:
    """The settings of a process.

    Args:
        config_file: what `--config` named; else `$MCP_POOLS_CONFIG`; else `config.yaml`
            in `user_config_dir`, if there is one.
        home: what `--home` named.
        user_config_dir: instead of `$XDG_CONFIG_HOME/mcp-pools`.

    Raises `PoolsError` `invalid_payload`, which names the key, its source and its value.
    """
    file = _config_file(config_file, environ, user_config_dir)
    values = _read(file) if file else {}
    if file and isinstance(values.get("home"), str):
        values["home"] = str(file.parent / Path(values["home"]).expanduser())
    origins = dict.fromkeys(values, str(file))
    for key, (variable, value) in _from_environment(environ).items():
        values[key], origins[key] = value, variable
    values["home"] = home or values.get("home") or default_home(environ)
    settings = Settings(_origins=origins, **values)
    settings._config_file = file
    return settings


@dataclass(frozen=True, slots=True)
class CallDefaults:
    """What calls from one directory get when they do not say; `default_timeout` in seconds."""

    pool_routing_strategy: Strategy
    default_timeout: float
    default_max_attempts: int


class _WorkingDirectoryKeys(BaseModel):
    """All that a working directory's file may hold."""

    model_config = ConfigDict(extra="forbid")

    pool_routing_strategy: Strategy | None = None
    default_timeout: Seconds | None = None
    default_max_attempts: Count | None = None


def working_directory_defaults(cwd: str | Path, settings: Settings) -> CallDefaults:
    """The defaults for calls from `cwd`: the settings', and what its `mcp-pools.yaml` may change.

    Raises `PoolsError` `invalid_payload` when that file holds any other key, raises a
    default, or cannot be read. The message quotes nothing of the file but keys of ours:
    whoever wrote the file may have meant it to be read by a model.
    """
    ours = {field.name: getattr(settings, field.name) for field in fields(CallDefaults)}
    file = Path(cwd, WORKING_DIRECTORY_FILE)
    if not os.path.isfile(file):
        return CallDefaults(**ours)
    values = _read(file, most=_STRANGERS_BYTES, quote=False)
    _only_allowed_here(file, values)
    try:
        given = _WorkingDirectoryKeys(**values).model_dump(exclude_none=True)
    except ValidationError as wrong:
        key = wrong.errors()[0]["loc"][0]
        raise _invalid(
            f"{key} in {file} has a wrong value.", f"Give it one like {ours[str(key)]!r}."
        ) from None
    for key in ("default_timeout", "default_max_attempts"):
        if given.get(key, ours[key]) > ours[key]:
            raise _invalid(
                f"{file} raises {key} from {ours[key]} to {given[key]}; there it may only be lowered.",
                "Give it with the call, or set it in your own configuration.",
            )
    return CallDefaults(**ours | given)


def _only_allowed_here(file: Path, values: Mapping[str, Any]) -> None:
    allowed = tuple(_WorkingDirectoryKeys.model_fields)
    for key in values:
        if key in allowed:
            continue
        named = f"sets {key!r}" if key in Settings.model_fields else "has an unknown key"
        why = "somebody else may have written it, so it may set nothing else"
        hint = "" if key in Settings.model_fields else nearest(key, allowed) + " "
        raise _invalid(
            f"{file} {named}. A working directory's file may set only {', '.join(allowed)}: {why}.",
            f"{hint}Move the key to your own configuration, or start elsewhere.",
        )


def _config_file(
    given: str | Path | None, environ: Mapping[str, str], user_config_dir: str | Path | None
) -> Path | None:
    named = given or environ.get("MCP_POOLS_CONFIG")
    if named:
        return Path(named).expanduser().absolute()
    if user_config_dir is None:
        base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home(), ".config")
        user_config_dir = Path(base, "mcp-pools")
    file = Path(user_config_dir, "config.yaml").expanduser().absolute()
    return file if file.exists() else None


def _read(file: Path, *, most: int = _FILE_BYTES, quote: bool = True) -> dict[str, Any]:
    """The keys of a YAML file; `quote`: whether its text may appear in messages."""
    try:
        with file.open("rb") as opened:
            text = opened.read(most + 1)
    except OSError as failure:
        hint = "Check the path and its permissions."
        raise _invalid(f"{file} cannot be read: {failure.strerror}.", hint) from None
    if len(text) > most:
        raise _invalid(f"{file} is larger than {most} bytes.", "Name a configuration file.")
    values = _yaml(text, str(file), quote=quote)
    if values is None:
        return {}
    if not isinstance(values, dict):
        hint = "Write `key: value` lines."
        raise _invalid(f"{file} holds a {type(values).__name__}, not a mapping.", hint)
    return {str(key): value for key, value in values.items()}


def _yaml(text: bytes | str, where: str, *, quote: bool = True) -> Any:
    import yaml  # 20 ms that most commands need not spend

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as wrong:
        mark = getattr(wrong, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(wrong, "problem", None) if quote else None
        said = f": {problem}" if problem else ""
        raise _invalid(f"{where} is not valid YAML{line}{said}.", "Correct it there.") from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Key to (the variable it came from, its value). An empty variable counts as unset."""
    known = Settings.model_fields
    found = {}
    for key in known:
        for prefix in PREFIXES:
            variable = prefix + key.upper()
            if raw := environ.get(variable):
                found[key] = (f"the environment variable {variable}", _parsed(key, raw, variable))
                break
    for variable in environ:
        _check_spelling(variable, known)
    return found


def _check_spelling(variable: str, known: Iterable[str]) -> None:
    """Refuse a variable that was surely meant for us; other people's may start alike."""
    prefix = PREFIXES[0]
    key = variable.removeprefix(prefix)
    if key == variable or key in RESERVED or key.lower() in known:
        return
    from difflib import get_close_matches

    if close := get_close_matches(key.lower(), known, n=1, cutoff=0.8):
        meant = prefix + close[0].upper()
        raise _invalid(f"Unknown environment variable {variable!r}.", f"Did you mean {meant!r}?")


def _parsed(key: str, raw: str, variable: str) -> Any:
    """Text stays text; anything else is JSON, or what YAML makes of it."""
    annotation = Settings.model_fields[key].annotation
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType, Literal) else (annotation,)
    if any(kind in (str, Path) or isinstance(kind, str) for kind in kinds):
        return raw
    try:
        return json.loads(raw)
    except ValueError:
        return _yaml(raw, f"the environment variable {variable}")


def _explained(wrong: ValidationError, origins: Mapping[str, str]) -> PoolsError:
    """The first thing that is wrong: its key, where that came from, its value."""
    error = wrong.errors(include_url=False)[0]
    place = [str(part) for part in error["loc"]]
    key = ".".join(place)
    where = origins.get(place[0], "the settings") if place else "the settings"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return _invalid(f"Unknown key {key!r} in {where}.", nearest(place[-1], _known(place)))
    problem = error["msg"].removeprefix("Value error, ")
    if not place:
        return _invalid(f"The settings are wrong: they {problem}.", "Correct the configuration.")
    value = "" if place[0] in _UNQUOTED else f" (it is {reprlib.repr(error['input'])})"
    return _invalid(f"{key} in {where} is wrong: {problem}{value}.", f"Correct {place[0]}.")


def _known(place: list[str]) -> list[str]:
    """The keys there are where an unknown one stands."""
    match place:
        case ["pools", _, _]:
            return list(PoolDefinition.model_fields)
        case ["limits", _]:
            return list(LimitDefinitions.model_fields)
        case ["limits", _, _, _]:
            return list(LimitDefinition.model_fields)
        case ["ecosystem", _, _]:
            return list(EcosystemEntry.model_fields)
        case ["secrets", _, _]:
            return list(SecretSource.model_fields)
        case ["auth", _]:
            return list(AuthDefinition.model_fields)
        case ["auth", "introspection", _]:
            return list(IntrospectionDefinition.model_fields)
        case ["agents", _, _]:
            return [field.name for field in fields(Agent)]
        case ["allow", _]:
            return [field.name for field in fields(Allow)]
        case _:
            return list(Settings.model_fields)


def _invalid(message: str, next: str) -> PoolsError:
    return PoolsError("invalid_payload", message, next)
