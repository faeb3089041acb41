"""Catalogues that every description is tried on."""

from __future__ import annotations

import pytest

from ksi.codegen.catalogue import Catalogue
from tests.codegen.built_in import built_in, catalogue_from
from tests.codegen.painting import Painting


@pytest.fixture(params=["built-in", "painting"])
def catalogue(request: pytest.FixtureRequest) -> Catalogue:
    """What is always there, and what plugin authors may think of."""
    return built_in() if request.param == "built-in" else catalogue_from(Painting)
