"""Loading, unloading and reloading of plugins at run time.

Each load is a generation of its own: fresh module objects, never ``importlib.reload``, so that a suspended stream goes
on in the code in which it began. A reload swaps the rows of the table in one step; the old generation answers what it
has begun and is shut down when the last of it has ended.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ksi.core.errors import DeclarationError, NotFoundError, PluginFailedError
from ksi.kernel.foreign import ENDS
from ksi.kernel.plugin import AsyncPlugin

GROUP = "ksi.plugins"
PACKAGE = "ksi_plugins"


class Source:
    """Where a plugin comes from: ``module:Class``, the path of a file or package, or a class of the daemon itself."""

    def __init__(self, target: str | type[AsyncPlugin]) -> None:
        self.target = target

    def __str__(self) -> str:
        target = self.target
        return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"

    def classes(self, generation: int) -> list[type[AsyncPlugin]]:
        """The plugin classes, from modules loaded afresh for this generation.

        Raises:
            NotFoundError: There is no such file, module or class.
            PluginFailedError: The module raised while it was imported.
        """
        if isinstance(self.target, type):
            return [self.target]
        path = Path(self.target)
        if path.suffix == ".py" or path.is_dir():
            if not path.exists():
                raise NotFoundError("plugin file", self.target)
            return _classes_of(_load_file(path, generation), self.target)
        return self._by_name(self.target, generation)

    @staticmethod
    def _by_name(target: str, generation: int) -> list[type[AsyncPlugin]]:
        module_name, _, class_name = target.partition(":")
        try:
            spec = importlib.util.find_spec(module_name)
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None:
            raise NotFoundError("module", module_name)
        module = _load_file(Path(spec.origin), generation) if generation > 1 else _import(module_name)
        if not class_name:
            return _classes_of(module, target)
        found = getattr(module, class_name, None)
        if not (isinstance(found, type) and issubclass(found, AsyncPlugin)):
            raise NotFoundError("plugin class", target)
        return [found]


def discover(home: Path | None) -> list[Source]:
    """Entry points ``ksi.plugins``, then files and packages of the folder ``plugins`` of the home, by name."""
    found = [Source(point.value) for point in entry_points(group=GROUP)]
    folder = None if home is None else home / "plugins"
    if folder is not None and folder.is_dir():
        found += [
            Source(str(path))
            for path in sorted(folder.iterdir())
            if not path.name.startswith((".", "_")) and (path.suffix == ".py" or (path / "__init__.py").exists())
        ]
    return found


def forget(classes: list[type[AsyncPlugin]]) -> None:
    """Let go of the modules of a generation that has drained."""
    for kind in classes:
        root = kind.__module__
        if root.startswith(f"{PACKAGE}."):
            for name in [name for name in list(sys.modules) if name == root or name.startswith(f"{root}.")]:
                del sys.modules[name]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ENDS as error:
        raise PluginFailedError(name, f"{type(error).__name__}: {error}") from error


def _load_file(path: Path, generation: int) -> ModuleType:
    """The module of ``path``, under a name of this generation; a folder is loaded whole, as a package."""
    is_package = path.is_dir() or path.name == "__init__.py"
    file = path / "__init__.py" if path.is_dir() else path
    stem = (file.parent if is_package else file).name.removesuffix(".py")
    place = hashlib.blake2b(str(file.resolve()).encode(), digest_size=4).hexdigest()
    name = f"{PACKAGE}.{stem}_{place}__g{generation}"
    _parent()
    locations = [str(file.parent)] if is_package else None
    loader = _FreshLoader(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=locations)
    if spec is None or spec.loader is None:
        raise NotFoundError("plugin file", str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ENDS as error:
        sys.modules.pop(name, None)
        raise PluginFailedError(str(path), f"{type(error).__name__}: {error}") from error
    return module


class _FreshLoader(SourceFileLoader):
    """Reads the source itself.

    A cached ``.pyc`` counts as fresh when the source's time (s) and size are the same, which an edit of one character
    within a second fulfils.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _parent() -> None:
    """The package under which generations stand in ``sys.modules``."""
    if PACKAGE not in sys.modules:
        package = ModuleType(PACKAGE, "Plugins, by generation.")
        package.__path__ = []
        sys.modules[PACKAGE] = package


def _classes_of(module: ModuleType, target: Any) -> list[type[AsyncPlugin]]:
    root = module.__name__
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, AsyncPlugin)
        and (value.__module__ == root or value.__module__.startswith(f"{root}."))
        and value is not AsyncPlugin
    ]
    if not classes:
        raise DeclarationError("no class here derives from AsyncPlugin", where=str(target))
    return classes
