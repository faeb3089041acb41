"""A home is made for its owner's eyes alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.core.errors import ConfigError
from ksi.core.home import Home


def test_all_of_it_is_private_also_below_directories_that_are_not_there_yet(tmp_path: Path) -> None:
    home = Home(tmp_path / "not" / "there" / "home")
    home.make()
    home.make()
    assert {made.stat().st_mode & 0o777 for made in (home.path, home.data, home.logs)} == {0o700}


def test_where_it_can_not_be_made_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError) as caught:
        Home(tmp_path / "file" / "home").make()
    assert caught.value.where == str(tmp_path / "file" / "home")
