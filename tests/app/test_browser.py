"""The page in a real browser: every control, the presets' numbers, exports, no word to anyone outside.

Skipped where there is no Chromium; on Debian: apt-get install chromium chromium-driver.
"""

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from shelves import LINE, write_labels, write_run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium with chromedriver; on Debian: apt-get install chromium chromium-driver",
)

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "seed_experiments.json").read_text()
)
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --window-size=1400,1000"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "growing")
    write_labels(folder / "labelled")
    return folder


@pytest.fixture(scope="module")
def address(shelf):
    command = [
        sys.executable,
        "-m",
        "keelnet",
        "explore",
        str(shelf),
        "--port",
        "0",
        "--no-browser",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield re.search(r"http://\S+/", process.stdout.readline())[0].rstrip("/")
        process.terminate()


@contextmanager
def opened():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(20)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def chrome(address):
    with opened() as driver:
        yield driver


@pytest.fixture
def page(chrome, address):
    """The explorer; what the browser asked for and complained of is looked at afterwards."""
    yield Page(chrome, address)
    assert [
        entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"
    ] == []
    asked = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    urls = {
        each["params"]["request"]["url"]
        for each in asked
        if each["method"] == "Network.requestWillBeSent"
    } | {each["params"]["url"] for each in asked if each["method"] == "Network.webSocketCreated"}
    assert urls
    for url in urls:
        assert url.startswith(("data:", "blob:", address, address.replace("http", "ws"))), url


class Page:
    def __init__(self, driver, address):
        self.driver = driver
        self.address = address

    def open(self, path):
        self.driver.get(self.address + path)
        if not path.startswith("/runs"):
            self.drawn(0)
        return self

    def by(self, name):
        return self.driver.find_element(By.ID, name)

    def count(self):
        return int(self.driver.execute_script("return document.documentElement.dataset.drawn ?? 0"))

    def drawn(self, before):
        WebDriverWait(self.driver, 20, poll_frequency=0.02).until(lambda _: self.count() > before)

    def set(self, name, value):
        """As a user does, and wait for the picture."""
        element, before = self.by(name), self.count()
        if element.tag_name == "select":
            Select(element).select_by_value(value)
        elif element.get_attribute("type") == "checkbox":
            element.click()
        elif element.get_attribute("type") == "range":
            self.driver.execute_script(
                "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
                element,
                value,
            )
        else:
            element.send_keys(Keys.CONTROL, "a", Keys.NULL, value or Keys.DELETE, Keys.ENTER)
        self.drawn(before)

    @property
    def query(self):
        return {
            key: value[0]
            for key, value in parse_qs(urlsplit(self.driver.current_url).query).items()
        }

    @property
    def error(self):
        element = self.by("error")
        return element.text if element.is_displayed() else ""

    def export(self, kind):
        """What a link gives, and its type."""
        return self.driver.execute_async_script(
            "const [id, done] = arguments; fetch(document.getElementById(id).href)"
            ".then(async (a) => done([await a.text(), a.headers.get('content-type')]))",
            f"export-{kind}",
        )


def test_presets_draw_the_seeds_numbers(page):
    page.open("/?preset=fig2a")
    wanted = {
        "fig2b": ("euler_N21", "plus"),
        "fig2c": ("euler_N21", "minus"),
        "fig2d": ("euler_N21", "zero"),
        "fig2e": ("antisymmetric_N21", "plus_gamma_0.0"),
        "fig2f-damped": ("antisymmetric_N21", "minus_gamma_0.1"),
        "fig3-N20-y_in_R3": ("verlet", "N20_full", "y_in_R3"),
        "fig3-N1000-y_in_R2": ("verlet", "N1000_full", "y_in_R2"),
    }
    for key, path in wanted.items():
        page.set("preset", key)
        ends = REFERENCE
        for name in path:
            ends = ends[name]
        ends = np.array(ends[-1] if path[0] != "verlet" else ends)
        table = json.loads(page.export("json")[0])
        np.testing.assert_allclose(table["y"][-1], ends, rtol=0, atol=1e-11)
        shown = re.findall(
            r"feature \d at \((\S+), (\S+)\)", page.by("positions").text.replace("−", "-")
        )
        np.testing.assert_allclose(np.array(shown, float), ends[:, :2], rtol=1e-3, atol=2e-5)
        assert page.by("hint").text and not page.error
    assert page.by("badge").text == "✓ stable"
    page.set("preset", "fig2b")
    assert page.by("badge").text == "✕ unstable" and "46 times" in page.by("what").text
    before = page.count()
    page.by("remedy").click()
    page.drawn(before)
    assert page.by("badge").text == "✓ stable" and not page.by("remedy").is_displayed()
    assert page.query["kernel"] == "2,-2;0,2" and page.query["integrator"] == "verlet"
    assert page.by("field-words").text == "y′ = f(z Kᵀ + u), z′ = −f(y K + u)"


def test_every_control_changes_the_picture_and_the_link(page):
    page.open("/?preset=fig2e")
    changes = {
        "activation": "relu",
        "kernel-1-2": "-1.5",
        "kernel-2-1": "0.5",
        "damping": "0.2",
        "damping-slide": "0.3",
        "damping-auto": "auto",
        "step_size": "0.07",
        "step_size-slide": "0.05",
        "depth": "40",
        "depth-slide": "60",
        "variation": "smooth",
        "strength": "0.3",
        "period": "4",
        "cloud": "25",
        "spread": "0.4",
        "field": "hamiltonian",  # and with it the method: Euler still moves it
        "integrator": "verlet",
        "start": "half",
        "rows": "3",
        "columns": "3",
        "kernel-3-3": "0.7",
        "bias-1-2": "0.4",
        "across": "2",
        "up": "4",
    }
    for name, value in changes.items():
        before = page.query
        page.set(name, value)
        assert not page.error, (name, page.error)
        assert page.query != before, name
        key = {"kernel": "kernel"}.get(
            name.split("-")[0], name.removesuffix("-slide").removesuffix("-auto")
        )
        assert value in page.query.get(key, value), name
    assert page.query["kernel"] == "2,-1.5,0;0.5,2,0;0,0,0.7"
    assert page.query["bias"] == "0,0.4,0"
    link = page.driver.current_url
    table = page.export("json")[0]
    page.open(link.removeprefix(page.address))
    assert page.driver.current_url == link and page.export("json")[0] == table
    for name in (
        "integrator",
        "field",
        "start",
        "activation",
        "depth",
        "kernel-1-2",
        "across",
        "up",
    ):
        value = page.by(name).get_attribute("value")
        assert value == {**changes, "depth": "60"}[name]


def test_a_field_brings_a_method_that_moves_it(page):
    page.open("/?preset=plus-verlet")
    page.set("field", "plain")
    assert page.query["integrator"] == "euler" and not page.error
    assert not page.driver.find_element(By.CSS_SELECTOR, "#integrator [value=verlet]").is_enabled()
    page.set("rows", "3")
    assert page.query["kernel"].count(";") == 2 and page.query["kernel"].count(",") == 6


def test_a_bias_has_a_place_for_every_number_that_the_field_takes(page):
    page.open("/?preset=fig2b")
    page.set("bias-1-1", "0.5")
    assert 'controls["bias"] = torch.tensor([0.5, 0.0]' in page.export("py")[0]
    shapes = {}
    for field, rows, columns in (
        ("hamiltonian", "2", "2"),
        ("hamiltonian", "3", "2"),
        ("double_hamiltonian", "2", "3"),
        ("symmetric", "2", "3"),
    ):
        for name, value in (("field", field), ("rows", rows), ("columns", columns)):
            if page.by(name).get_attribute("value") != value:
                page.set(name, value)
            assert not page.error
        shapes[field, rows] = page.query["bias"]
    assert shapes == {
        ("hamiltonian", "2"): "0.5,0",
        ("hamiltonian", "3"): "0.5",
        ("double_hamiltonian", "2"): "0.5,0,0;0,0,0",
        ("symmetric", "2"): "0.5,0,0",
    }
    page.set("bias-1-2", "NaN")
    assert "bias entry 1, 2 must be a finite number" in page.error
    assert page.by("bias-1-2").get_attribute("aria-invalid") == "true"


def test_features_are_added_by_pointer_and_by_keys_and_removed(page):
    page.open("/?preset=fig2d")
    page.by("plane").click()  # its centre
    page.drawn(1)
    added = [float(value) for value in page.query["features"].split(";")[3].split(",")]
    assert np.abs(added).max() < 0.1
    keys = [Keys.ARROW_RIGHT] * 5 + [Keys.ARROW_UP] * 2 + [Keys.ENTER]
    page.by("plane").send_keys(*keys)
    page.drawn(2)
    x, y = (float(value) for value in page.query["features"].split(";")[4].split(","))
    assert x > y > 0
    page.driver.find_element(By.CSS_SELECTOR, "[aria-label='Remove feature 2']").click()
    page.drawn(3)
    assert len(page.query["features"].split(";")) == 4
    page.by("clear").click()
    page.drawn(4)
    assert page.query["features"] == "0.1,0.1"
    first = page.driver.find_element(By.CSS_SELECTOR, "#features input")
    first.send_keys(Keys.ARROW_UP)
    page.drawn(5)
    assert page.query["features"] == "0.2,0.1"


def require_refused(page, name, typed, words):
    """What is typed is refused in these words where it stands, and address and picture stay."""
    before, what = page.driver.current_url, page.by("what").text
    good = page.by(name).get_attribute("value")
    page.set(name, typed)
    assert words in page.error
    assert page.by(name).get_attribute("aria-invalid") == "true"
    assert page.by(name).get_attribute("value") == typed
    assert page.driver.current_url == before and page.by("what").text == what
    page.set(name, good)
    assert not page.error and page.by(name).get_attribute("aria-invalid") is None


def test_bad_input_is_named_and_the_picture_stays(page):
    page.open("/?preset=fig2b")
    assert "46 times" in page.by("what").text
    for name, value, words in (
        ("kernel-1-2", "NaN", "kernel entry 1, 2 must be a finite number"),
        ("step_size", "0", "step size h must be a finite number above 0, got 0"),
        ("depth", "10000000", "depth must lie between 1 and 10,000 layers, got 10,000,000"),
        ("cloud", "many", "cloud must be a number, got 'many'"),
        ("kernel-2-1", "", "kernel must be a number, got ''"),
    ):
        require_refused(page, name, value, words)
    page.open("/?kernel=nan,1;2,3")
    assert "kernel entry 1, 1" in page.error
    page.open("/?kernel=")
    assert not page.error and "46 times" in page.by("what").text


def test_boxes_that_are_hidden_refuse_nothing_and_none_is_empty_that_counts(page):
    page.open("/?preset=fig2b")
    page.set("variation", "smooth")
    page.set("period", "0")
    assert "period must be a finite number above 0" in page.error
    page.set("variation", "constant")
    assert not page.error
    page.set("field", "antisymmetric")
    page.set("damping-auto", "auto")
    page.set("damping-auto", "0")
    assert page.by("damping").get_attribute("value") == "0" == page.query["damping"]


def test_the_form_says_which_part_moves_first(page):
    """Verlet.shears: of two kernels y, unless the first kick is a half one."""
    page.open("/?preset=fig2b")
    page.set("field", "hamiltonian")
    for name, value, words in (
        ("integrator", "verlet", "z first"),
        ("field", "double_hamiltonian", "y first"),
        ("start", "half", "z first"),
    ):
        page.set(name, value)
        assert page.by("integrator-words").text.startswith(words), (name, value)


def test_a_decimal_comma_is_the_point_that_it_means(page):
    page.open("/?preset=fig2b")
    for name, typed, key, value in (
        ("kernel-1-2", "-1,5", "kernel", "2,-1.5;0,2"),
        ("kernel-2-1", "0,5", "kernel", "2,-1.5;0.5,2"),
        ("bias-1-1", "0,25", "bias", "0.25,0"),
        ("step_size", "0,05", "step_size", "0.05"),
        ("spread", "0,4", "spread", "0.4"),
    ):
        page.set(name, typed)
        assert not page.error and page.query[key] == value
        assert page.by(name).get_attribute("value") == typed.replace(",", ".")
    before = page.count()
    first = page.driver.find_element(By.CSS_SELECTOR, "#features input")
    first.send_keys(Keys.CONTROL, "a", Keys.NULL, "0,3", Keys.ENTER)
    page.drawn(before)
    assert not page.error and page.query["features"].startswith("0.3,0.1;")
    page.set("field", "antisymmetric")
    page.set("damping", "0,1")
    assert not page.error and page.query["damping"] == "0.1"


def test_a_cell_that_would_be_several_numbers_is_refused_by_its_name(page):
    page.open("/?preset=fig2b")
    for name, typed, words in (
        ("kernel-1-2", "1,2,3", "Kernel entry, row 1, column 2 must be one number"),
        ("kernel-2-2", "1;2", "Kernel entry, row 2, column 2 must be one number"),
        ("kernel-1-1", "1,234.5", "got '1,234.5'"),
        ("bias-1-2", "0;0", "Bias u, entry 2 must be one number"),
        ("depth", "1,000", "depth must be a number, got '1,000'"),
        ("step_size", "0,1,2", "step_size must be a number, got '0,1,2'"),
    ):
        require_refused(page, name, typed, words)
    count = page.count()
    first = page.driver.find_element(By.CSS_SELECTOR, "#features input")
    first.send_keys(Keys.CONTROL, "a", Keys.NULL, "1,2;3", Keys.ENTER)
    page.drawn(count)
    assert "Feature 1, first coordinate must be one number" in page.error


def test_address_exports_and_titles_are_those_of_the_picture_while_the_form_is_refused(page):
    page.open("/?preset=fig3-N20-y_in_R3")
    page.set("across", "2")
    page.set("up", "3")
    shown, table = page.query, page.export("json")[0]
    titles = {
        name: page.by(f"{name}-title").text
        for name in ("spectrum", "growth", "distances", "energy")
    }
    page.set("step_size", "0")
    page.set("integrator", "rk4")
    assert page.error and page.query == shown
    page.by("layer").send_keys(Keys.HOME)
    page.by("link").click()
    WebDriverWait(page.driver, 5).until(lambda _: "link is" in page.by("copied").text)
    assert page.query == {**shown, "layer": "0"}
    assert page.export("json")[0] == table
    assert {name: page.by(f"{name}-title").text for name in titles} == titles
    link = page.driver.current_url
    page.open(link.removeprefix(page.address))
    assert not page.error and page.driver.current_url == link


def test_of_many_features_it_is_said_whose_distances_are_drawn(page):
    page.open("/?preset=fig2b&kernel=2,-2;0,2&features=0,0;1,0;0,1;1,1")
    assert page.by("distances-title").text == "Distance between features, by layer"
    page.by("plane").send_keys(Keys.ARROW_RIGHT, Keys.ENTER)
    page.drawn(1)
    assert page.by("distances-title").text == "Distance between the first 4 features, by layer"
    assert "distance between the first 4 features" in page.export("svg")[0]


def test_the_layer_cursor_moves_by_hand_and_by_itself(page):
    page.open("/?preset=fig2b")
    page.by("layer").send_keys(Keys.HOME)
    assert page.by("positions").text.startswith("Layer 0: feature 1 at (0.1, 0.1)")
    page.by("layer").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "Layer 2:" in page.by("positions").text and page.query["layer"] == "2"
    page.by("play").click()
    assert page.by("play").get_attribute("aria-pressed") == "true"
    WebDriverWait(page.driver, 5).until(
        lambda _: page.by("layer-shown").text.split()[0] not in "012"
    )
    page.by("play").click()
    assert page.by("play").text == "Play"
    shown = page.by("layer-shown").text.split()[0]
    assert page.by("positions").text.startswith(f"Layer {shown}:") and page.query["layer"] == shown


def test_a_plane_that_the_new_network_has_not_gives_way_to_the_first(page):
    page.open("/?preset=plus-verlet")
    for name, value in (("across", "2"), ("up", "3"), ("field", "plain")):
        page.set(name, value)
    assert not page.error and (page.query["across"], page.query["up"]) == ("0", "1")


@pytest.mark.parametrize("plane", ["across=0&up=0", "across=2&up=3"])
def test_a_link_to_a_plane_that_there_is_not_shows_the_first(page, plane):
    page.open(f"/?kernel=2,-2;0,2&{plane}")
    assert not page.error and (page.query["across"], page.query["up"]) == ("0", "1")


def test_a_link_without_a_feature_can_be_mended_by_a_click(page):
    page.open("/?kernel=2,-2;0,2&features=")
    assert "feature" in page.error
    page.by("play").click()
    assert page.by("play").text == "Play"
    before = page.count()
    page.by("plane").click()
    page.drawn(before)
    assert not page.error and page.query["features"] == "0.1,0.1"


@pytest.mark.parametrize(("kernel", "words"), [("2,-2;0,2", "×10³²⁰"), ("-2,2;0,-2", "×10⁻³")])
def test_growth_past_all_numbers_is_a_power_of_ten(page, kernel, words):
    page.open(f"/?preset=fig2b&depth=4000&features=0,0&kernel={kernel}")
    assert words in page.by("growth-title").text


def test_features_that_explode_are_drawn_at_the_edge_and_named_where_they_are(page):
    page.open("/?preset=fig2b&activation=relu&depth=1000&features=0.1,0.1&kernel=2,0;0,2")
    assert "e77" in page.by("positions").text or "e78" in page.by("positions").text
    page.by("layer").send_keys(Keys.HOME)
    assert page.by("positions").text.startswith("Layer 0: feature 1 at (0.1, 0.1)")


def test_exports_are_files_of_their_kind(page):
    page.open("/?preset=fig2e-damped")
    kinds = {kind: page.export(kind)[1] for kind in ("json", "py", "svg", "png")}
    assert kinds == {
        "json": "application/json",
        "py": "text/x-python; charset=utf-8",
        "svg": "image/svg+xml",
        "png": "image/png",
    }
    assert "damping=0.1" in page.export("py")[0] and "<svg" in page.export("svg")[0]
    page.by("link").click()
    WebDriverWait(page.driver, 5).until(lambda _: "link is" in page.by("copied").text)


def test_two_visitors_do_not_meet(page):
    page.open("/?preset=fig2b")
    with opened() as other:
        second = Page(other, page.address).open("/?preset=plus-verlet")
        second.set("depth", "77")
        page.set("depth", "33")
        assert page.query["depth"] == "33" and page.query["field"] == "plain"
        assert second.query["depth"] == "77" and second.query["field"] == "hamiltonian"


def test_everything_has_a_name_and_its_place_in_the_order_of_keys(page):
    page.open("/?preset=fig2e")
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = {
        "button",
        "textbox",
        "slider",
        "combobox",
        "checkbox",
        "link",
        "application",
        "image",
    }
    seen = [node for node in nodes if node.get("role", {}).get("value") in controls]
    assert len(seen) > 30
    for node in seen:
        assert node.get("name", {}).get("value", "").strip(), node
    assert {node["role"]["value"] for node in nodes if "role" in node} >= {
        "status",
        "main",
        "navigation",
    }
    order = page.driver.execute_script(
        "return [...document.querySelectorAll('a,button,select,input,canvas[tabindex]')]"
        ".filter((e) => e.offsetParent && e.tabIndex > 0).length"
    )
    assert order == 0  # the order of the keys is that of the page


@pytest.mark.parametrize("path", ["/?preset=fig2b", "/runs?run=labelled"])
def test_a_phone_shows_it_without_scrolling_sideways(page, path):
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.open(path)
        WebDriverWait(page.driver, 10).until(lambda driver: driver.find_elements(By.ID, "theme"))
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_light_and_dark_can_be_read(page):
    page.open("/")
    contrast = """
      const rgb = (c) => c.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      const light = (c) => { const [r, g, b] = rgb(c); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      return ["badge", "what", "why", "hint", "caption", "positions"].map((id) => {
        const [a, b] = [getComputedStyle(document.getElementById(id)).color, getComputedStyle(document.getElementById("said")).backgroundColor].map(light);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); });
    """
    themes = set()
    for _ in range(2):
        themes.add(page.driver.execute_script("return document.documentElement.dataset.theme"))
        assert min(page.driver.execute_script(contrast)) > 4.5
        page.by("theme").click()
    assert themes == {"light", "dark"}


def test_the_viewer_shows_a_run_while_it_trains(page, shelf):
    page.open("/runs?run=growing")
    wait = WebDriverWait(page.driver, 15)
    wait.until(lambda _: "Epoch 1," in page.by("state").text)
    with (shelf / "growing" / "history.jsonl").open("a") as file:
        file.write(json.dumps({**LINE, "epoch": 2}) + "\n")
    wait.until(lambda _: "Epoch 2," in page.by("state").text)
    assert page.driver.find_elements(By.CSS_SELECTOR, ".curve canvas")


def test_the_viewer_turns_through_labelled_scans(page):
    page.open("/runs?run=labelled")
    wait = WebDriverWait(page.driver, 15)
    image = wait.until(lambda driver: driver.find_element(By.CSS_SELECTOR, "img.slice[src]"))
    wait.until(lambda driver: driver.execute_script("return arguments[0].naturalWidth", image) > 50)
    first = image.get_attribute("src")
    slider = page.driver.find_element(
        By.CSS_SELECTOR, "[aria-labelledby=slice-words] .q-slider__track-container"
    )
    slider.send_keys(Keys.ARROW_LEFT)
    wait.until(lambda _: image.get_attribute("src") != first)
    assert "not at hand" in page.driver.page_source
    page.open("/runs?run=elsewhere")
    wait.until(lambda driver: "elsewhere is no run folder" in driver.page_source)
