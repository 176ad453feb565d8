"""Recipes: settings are read by type, and what is written is read back."""

from dataclasses import replace

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as some

from keelnet.experiments.recipes import RECIPES, Recipe, recipe_named


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_survives_its_file(recipe):
    assert Recipe.from_toml(tomli_w.dumps(recipe.as_table())) == recipe


@given(
    depth=some.integers(1, 10**4),
    rate=some.floats(1e-6, 10),
    seed=some.integers(0, 2**31),
    widths=some.lists(some.integers(2, 64), min_size=2, max_size=4),
)
def test_settings_are_read_by_their_type_and_survive_the_file(depth, rate, seed, widths):
    text = ",".join(map(str, widths))
    recipe = recipe_named("digits").with_settings(
        [f"depth={depth}", f"rate={rate!r}", f"seed={seed}", f"width={text}", "epochs=none"]
    )
    assert (recipe.depth, recipe.rate, recipe.seed) == (depth, rate, seed)
    assert recipe.width == tuple(widths) and recipe.epochs is None
    assert Recipe.from_toml(tomli_w.dumps(recipe.as_table())) == recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dpth=3", "unknown setting 'dpth'; known are .*depth"),
        ("depth=deep", "depth must be a whole number or whole numbers separated by commas"),
        ("rate=fast", "rate must be a number, got 'fast'"),
        ("strategy=magic", "strategy must be one of auto, store_all, checkpointed, reversible"),
        ("depth", "key=value"),
        ("=3", "key=value"),
        ("name=mine", "unknown setting 'name'"),
        ("depth=10000000", "depth must be at most 100000, got 10000000"),
        ("depth=4,200000", "depth must be at most 100000, got 200000"),
        ("knots=200000", "knots must be at most 100000, got 200000"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        recipe_named("digits").with_settings([setting])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = [", "not TOML"),
        ('name = "x"', "missing keys"),
        ('name = "x"\ndata = "digits"\narchitecture = "residual"\nfoo = 1', "unknown keys"),
        ('name = "x"\ndata = "digits"\narchitecture = "residual"\ndepth = "a"', "depth = 'a'"),
        ('name = "x"\ndata = "digits"\narchitecture = "best"', "architecture = 'best'"),
    ],
)
def test_a_broken_recipe_file_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_toml(text)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown recipe 'brain'; known are digits, tissue"):
        recipe_named("brain")


@pytest.mark.parametrize("key", ["folder", "labels", "spacing", "epochs"])
def test_none_is_none_also_where_a_text_could_be(key):
    assert getattr(recipe_named("tumour").with_settings([f"{key}=none"]), key) is None


@pytest.mark.parametrize("key", ["folder", "labels"])
def test_what_is_empty_is_not_none(key):
    """As --set folder="$SCANS" is where SCANS is not set: synthetic cases are not what was meant."""
    with pytest.raises(ValueError, match=f"{key} is empty .*; none is {key}=none"):
        recipe_named("tumour").with_settings([f"{key}="])


def test_a_folder_is_kept_with_its_whole_path(tmp_path, monkeypatch):
    """A run is gone on with from another directory than it was begun in."""
    monkeypatch.chdir(tmp_path)
    recipe = recipe_named("tumour").with_settings(["folder=scans/mine"])
    assert recipe.folder == str(tmp_path.resolve() / "scans" / "mine")


def test_of_a_setting_that_is_given_twice_the_last_one_holds():
    assert recipe_named("digits").with_settings(["depth=3", "depth=4"]).depth == 4


def test_a_folder_that_was_kept_as_it_was_given_is_the_one_below_the_present(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    once = replace(recipe_named("tumour"), folder="scans")
    now = recipe_named("tumour").with_settings(["folder=scans"])
    assert once != now and once.same_as(now) and now.same_as(now)
    monkeypatch.chdir("/")
    assert not once.same_as(now)
