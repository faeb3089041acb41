"""Facts: one name and version has one shape, whoever declares it."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from ksi.core.errors import DuplicateEventError
from ksi.testing.harness import EventTestHarness

pytestmark = [pytest.mark.virtual, pytest.mark.leakcheck]
PLUGIN = """
    import msgspec

    from ksi.core.events import fact
    from ksi.kernel.plugin import AsyncPlugin


    @fact("order:placed"{version})
    class {struct}(msgspec.Struct):
        order: str
        {field}


    class {plugin}(AsyncPlugin):
        name = "{plugin}"
"""


def source(plugin: str, *, struct: str = "OrderPlaced", field: str = "title: str", version: str = "") -> str:
    return dedent(PLUGIN.format(plugin=plugin, struct=struct, field=field, version=version))


def write(folder: Path, plugin: str, **parts: str) -> str:
    file = folder / f"{plugin.lower()}.py"
    file.write_text(source(plugin, **parts))
    return str(file)


async def test_a_second_fact_of_one_name_with_other_fields_is_refused_and_names_both_places(tmp_path: Path) -> None:
    async with EventTestHarness(write(tmp_path, "Shop")) as ksi:
        plugins = ksi.kernel.plugins
        for field in ("title: int", "heading: str", "title: str | None"):
            with pytest.raises(DuplicateEventError) as caught:
                await plugins.load(write(tmp_path, "Other", struct="Placed", field=field))
            assert caught.value.event_name == "order:placed"
            assert [place.rpartition(".")[2] for place in caught.value.places] == ["OrderPlaced", "Placed"]
            assert [info.name for info in plugins.list_plugins()] == ["Shop"]


async def test_the_same_shape_and_another_version_are_no_clash(tmp_path: Path) -> None:
    async with EventTestHarness(write(tmp_path, "Shop")) as ksi:
        await ksi.kernel.plugins.load(write(tmp_path, "Same", struct="Placed"))
        await ksi.kernel.plugins.load(write(tmp_path, "Newer", field="price: int", version=", schema_version=2"))


async def test_a_reload_may_change_its_own_facts_and_an_unload_frees_the_name(tmp_path: Path) -> None:
    async with EventTestHarness(write(tmp_path, "Shop")) as ksi:
        plugins = ksi.kernel.plugins
        write(tmp_path, "Shop", field="price: int")
        await plugins.reload("Shop")
        with pytest.raises(DuplicateEventError):
            await plugins.load(write(tmp_path, "Other"))
        await plugins.unload("Shop")
        await plugins.load(write(tmp_path, "Other"))


async def test_the_facts_of_a_package_are_found_in_all_its_modules(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "said.py").write_text(source("Said"))
    (package / "__init__.py").write_text(
        "from ksi.kernel.plugin import AsyncPlugin\nfrom . import said\n\nclass Shop(AsyncPlugin):\n    name = 'shop'\n"
    )
    async with EventTestHarness(write(tmp_path, "Other", field="price: int")) as ksi:
        with pytest.raises(DuplicateEventError):
            await ksi.kernel.plugins.load(str(package))
