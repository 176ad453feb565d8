"""What the viewer shows of one folder: a run while it trains, or labelled scans slice by slice."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from urllib.parse import urlencode

from nicegui import ui

from keelnet.app.charts import TITLES, curve_options, score_table, volume_table
from keelnet.app.shelf import Entry
from keelnet.app.slices import PLANE_NAMES, labelled
from keelnet.data.conventions import CLASS_NAMES, MODALITIES
from keelnet.experiments.pictures import LESIONS
from keelnet.experiments.recipes import Recipe


class RunPanel:
    """Curves, scores, recipe and pictures; ``look`` again and again shows a run as it trains."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.seen: tuple[int, str, str] | None = None

    def build(self) -> None:
        """Called where the panel shall stand."""
        with ui.element("div").classes("curves"):
            self.charts = {
                kind: ui.echart(curve_options(self.entry, kind))
                .classes("curve")
                .props(f'role="img" aria-label="{words}, by epoch"')
                for kind, words in TITLES.items()
            }
        self.scores = ui.html("", sanitize=True)
        out = quote(str(self.entry.folder.parent / "segmented"))
        self.hint = ui.label(
            f"To see its labels on scans: keelnet segment {quote(str(self.entry.folder))} SCANS --out {out}, then"
            f" keelnet explore {out}."
        )
        with ui.expansion("Recipe"), ui.element("pre").classes("recipe"):
            self.recipe = ui.label("")
        self.pictures = ui.element("div").classes("pictures")

    def look(self) -> str:
        """Draw what is new since the last look; how far the run is, in words."""
        epochs, table = len(self.entry.history()), score_table(self.entry)
        # While a run that replaces this one begins, its recipe may not be written yet: the last one stays.
        recipe = self.entry.recipe() or self.recipe.text
        if (epochs, table, recipe) != self.seen:
            self.seen = (epochs, table, recipe)
            self.recipe.set_text(recipe)
            self.hint.set_visibility(_on_scans(recipe))
            for kind, chart in self.charts.items():
                chart.options.clear()
                chart.options.update(curve_options(self.entry, kind))
                chart.update()
            self.scores.set_content(table)
            self._hang_pictures(epochs)
        return self.entry.state()

    def _hang_pictures(self, epochs: int) -> None:
        self.pictures.clear()
        with self.pictures:
            for name in self.entry.pictures():
                source = urlencode({"run": self.entry.name, "name": name, "epoch": epochs})
                words = name.removesuffix(".png").replace("_", " ")
                ui.element("img").props(f'src="/runs/picture?{source}" alt="{words}"')


def _on_scans(recipe: str) -> bool:
    """Whether keelnet segment takes a run of this recipe; not of one that cannot be read, or not any more."""
    try:
        return Recipe.from_toml(recipe).on_scans
    except ValueError:
        return False


class LabelsPanel:
    """A slice of a case with its classes, by plane, modality and place."""

    def __init__(self, entry: Entry, scans: Path | None) -> None:
        self.entry = entry
        self.scans = scans
        self.cases: list[str] = []
        self.version: str | None = None  # of the labels that are shown
        self.readable = False

    def build(self) -> None:
        """Called where the panel shall stand."""
        self.box = ui.element("div")
        self._fill(self.entry.cases())

    def _fill(self, cases: list[str]) -> None:
        self.cases = cases
        self.box.clear()
        with self.box:
            if cases:
                self._show(cases)
            else:
                ui.label("No labelled case is finished yet.")

    def _show(self, cases: list[str]) -> None:
        with ui.element("div").classes("slices"):
            with ui.element("div").classes("choices"):
                self.case = ui.select(cases, value=cases[0], label="Case", on_change=self.turn)
                self.plane = ui.select(
                    list(PLANE_NAMES), value="axial", label="Plane", on_change=self.turn
                )
                self.modality = ui.select(
                    list(MODALITIES), value="flair", label="Modality", on_change=self.draw
                )
                self.words = ui.label("Slice").props('id="slice-words"')
                self.place = ui.slider(min=0, max=1, value=0, on_change=self.draw).props(
                    'aria-labelledby="slice-words"'
                )
                ui.label("Opacity of the labels").props('id="opacity-words"')
                self.opacity = ui.slider(
                    min=0, max=1, step=0.05, value=0.6, on_change=self.draw
                ).props('aria-labelledby="opacity-words"')
                ui.html(_legend(), sanitize=False)
                self.volumes = ui.html("", sanitize=True)
                self.note = ui.label("").props('role="status"')
            self.image = ui.element("img").classes("slice")
        self.turn()

    def look(self) -> str:
        """Draw what is new since the last look; how many cases there are, in words."""
        labels = self.entry.labels()
        cases = list(labels)
        if cases != self.cases and cases and self.cases:
            chosen = self.case.value
            self.cases = cases
            self.case.set_options(cases, value=chosen if chosen in labels else cases[0])
        elif cases != self.cases:
            self._fill(cases)
        elif cases and labels[self.case.value].version != self.version:
            self.turn()
        return self.entry.state(labels)

    def turn(self) -> None:
        """Another case or plane: to the slice where most was found."""
        found = self.entry.labels().get(self.case.value)
        self.version = None if found is None else found.version
        try:
            case = labelled(self.entry, self.case.value, self.scans)
        except (ValueError, OSError) as error:
            # Nothing of another case may stand under this one's name.
            self.readable = False
            self.note.set_text(str(error))
            self.volumes.set_content("")
            self.image.props(remove="src alt")
            return
        self.readable = True
        plane = self.plane.value
        self.note.set_text(
            ""
            if case.x is not None
            else "The scan itself is not at hand: keelnet explore --scans FOLDER puts it below the labels."
            if self.scans is None
            else f"No scan called {self.case.value} was found in {self.scans}."
        )
        self.volumes.set_content(volume_table(self.entry, self.case.value))
        self.place.props(f"max={case.count(plane) - 1}")
        self.place.set_value(case.fullest(plane))
        self.draw()

    def draw(self) -> None:
        """Ask for the picture of what is chosen."""
        if not self.readable:
            return
        place = int(self.place.value or 0)
        self.words.set_text(f"Slice {place}")
        source = urlencode(
            {
                "run": self.entry.name,
                "case": self.case.value,
                "plane": self.plane.value,
                "modality": self.modality.value,
                "slice": place,
                "opacity": self.opacity.value,
                "version": self.version,  # a picture that was seen before is not asked for again
            }
        )
        words = f"{self.plane.value} slice {place} of {self.case.value}, {self.modality.value}"
        self.image.props(f'src="/runs/slice?{source}" alt="{words}, labels in colour"')


def _legend() -> str:
    items = "".join(
        f'<li><span class="swatch swatch-{label}"></span> {name}</li>'
        for label, name in enumerate(CLASS_NAMES[1 : len(LESIONS) + 1], 1)
    )
    return f'<ul class="legend" aria-label="Colours">{items}</ul>'
