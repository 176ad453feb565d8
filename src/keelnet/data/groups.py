"""Groups: files of one folder that share the name before their last word are a case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from keelnet.data.case import Case
from keelnet.data.channels import is_channel
from keelnet.data.conventions import ALIASES, MODALITIES
from keelnet.data.file_names import (
    BY_A_PROGRAM,
    OF_A_TUMOUR,
    OF_THE_BRAIN,
    OF_THE_HEAD,
    SEGMENTATION,
    TUMOUR_AT_END,
    edition,
    folder_name,
    of_session,
    subject_and_kind,
    without_agent,
    without_end,
)
from keelnet.data.refusals import Refusals
from keelnet.data.stacks import holds_masks
from keelnet.data.volumes import stem_of

Key = tuple[Path, str]  # folder, and the name before the last word


class Groups:
    """Files sorted by their names.

    taken: folders with a file for each modality. others: those whose names say nothing. marked: those that mark
    something, by the name that they bear, in whichever folder.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.others: list[Path] = []
        self.marked: dict[str, list[Path]] = {}
        self._scans: dict[Key, dict[str, Path]] = {}
        self._words: dict[Key, set[str]] = {}
        self._twice: dict[Key, str] = {}
        self._segmentations: dict[Key, list[Path]] = {}
        self._tumours: dict[Key, list[Path]] = {}
        self._odd: dict[Path, list[Path]] = {}
        self._tissues: dict[Path, list[Path]] = {}
        masks = {folder for folder in {path.parent for path in files} if holds_masks(folder)}
        for path in files:
            told = subject_and_kind(stem_of(path))
            if path.parent in masks:
                self._mark(path)
            elif told is not None:
                self._add((path.parent, told[0]), told[1], path)
            elif not self._mark(path):
                self.others.append(path)
        self._join_sessions()

    def _add(self, key: Key, word: str, path: Path) -> None:
        modality, own = ALIASES[word], self._scans.setdefault(key, {})
        if modality in own:
            self._twice[key] = f"two files for {modality}: {own[modality].name} and {path.name}"
        own[modality] = path
        self._words.setdefault(key, set()).add(word)

    def _join_sessions(self) -> None:
        """In BIDS each scan may say how it was taken: one file for each modality of a session is a case by its name.

        Where there are two for a modality, as in two runs, it is not guessed which belong together.
        """
        sessions: dict[Key, list[Key]] = {}
        for folder, subject in self._scans:
            sessions.setdefault((folder, of_session(subject)), []).append((folder, subject))
        for session, keys in sessions.items():
            words = [modality for key in keys for modality in self._scans[key]]
            if (
                len(keys) == 1
                or sorted(words) != sorted(MODALITIES)
                or self._twice.keys() & {*keys}
            ):
                continue
            files = [self._scans.pop(key) for key in keys]
            self._scans[session] = {each: path for own in files for each, path in own.items()}
            self._words[session] = set().union(*(self._words.pop(key) for key in keys))

    def _mark(self, path: Path) -> bool:
        """Sort a file in that marks something; False for any other."""
        stem = stem_of(path)
        if found := BY_A_PROGRAM.search(stem):
            self.marked.setdefault(without_end(stem[: found.start()]), []).append(path)
            return True
        found = SEGMENTATION.search(stem)
        if found is None or OF_THE_HEAD.search(stem):
            return False
        subject = without_end(stem[: found.start()])
        for name in {subject, of_session(without_agent(subject))}:
            self.marked.setdefault(name, []).append(path)
        self._segmentations.setdefault((path.parent, subject), []).append(path)
        if of_tumour := TUMOUR_AT_END.search(subject):
            subject = without_end(subject[: of_tumour.start()])
            self.marked.setdefault(subject, []).append(path)
            self._tumours.setdefault((path.parent, subject), []).append(path)
        kind = "tumour" if OF_A_TUMOUR.search(stem) else found[2].lower()
        # In BIDS tissues are called so: <subject>_label-GM_dseg, <subject>_desc-aseg_dseg.
        if OF_THE_BRAIN.search(stem) or kind == "dseg":
            self._tissues.setdefault(path.parent, []).append(path)
        elif kind != "mask":
            self._odd.setdefault(path.parent, []).append(path)
        return True

    def __bool__(self) -> bool:
        """Whether a name tells a modality."""
        return bool(self._scans)

    @property
    def taken(self) -> set[Path]:
        return {folder for (folder, _), own in self._scans.items() if own.keys() >= {*MODALITIES}}

    def cases(self, refused: Refusals, unclear: list[str]) -> Iterator[Case]:
        """Whole cases; the others are refused, and of those without labels it is said which files may hold them."""
        for (folder, subject), files in self._scans.items():
            name = subject or folder_name(folder)
            missing = [each for each in MODALITIES if each not in files]
            reason = f"{', '.join(missing)} missing in {folder}" if missing else ""
            if reason := self._twice.get((folder, subject), reason):
                refused.add(name, folder, reason)
                continue
            own = {modality: files[modality] for modality in MODALITIES}
            names = edition([name], self._words[folder, subject])
            case = Case(name, own, None, names, bare=not subject)
            labels = self._segmentations.get((folder, subject), [])
            if len(labels) > 1:
                reason = f"two files of labels: {labels[0].name} and {labels[1].name}"
                refused.add(name, folder, reason, case)
                continue
            of_tumour = self._tumours.get((folder, subject), [])
            if not labels and len(of_tumour) == 1:
                labels = of_tumour
            yield replace(case, labels=labels[0] if labels else self._alone(case, folder, unclear))

    def _alone(self, case: Case, folder: Path, unclear: list[str]) -> Path | None:
        """The labels of the only case in a folder, called otherwise: one mask of the 2020 set bears another study's name."""
        if sum(key[0] == folder for key in self._scans) > 1:
            return None
        odd = self._odd.get(folder, [])
        labels = _left_over(odd, case.files["t1"])
        left = [*self._tissues.get(folder, []), *(path for path in odd if path not in labels)]
        if not labels and left:
            unclear.append(
                f"{case.name} is without labels: {left[0].name} is taken for tissues of the brain; if it marks the"
                f" tumour, give it the name of the scans, with seg for the modality"
            )
        if len(labels) > 1:
            unclear.append(
                f"{case.name} is without labels: they may be {labels[0].name} or {labels[1].name};"
                " give the right one the name of the scans, with seg for the modality"
            )
        return labels[0] if len(labels) == 1 else None


def _left_over(odd: Sequence[Path], t1: Path) -> list[Path]:
    """Which of these may be the labels of the only case in their folder: one that says so, or any but T1's tissues."""
    # Segmenters of tissues, as FAST, call what they find on <subject>_t1 <subject>_t1_seg.
    own = [path for path in odd if SEGMENTATION.sub("", stem_of(path)) != stem_of(t1)]
    named = [path for path in own if OF_A_TUMOUR.search(stem_of(path))]
    return named if len(named) == 1 else own


def hint(case: Case, marked: Mapping[str, Sequence[Path]]) -> str:
    """Which files may hold the labels of a case that has none where they are looked for; empty where no name says so."""
    files = [*dict.fromkeys(marked.get(case.name, ()))]
    if not files:
        return ""
    place = "beside the scans, by their name with seg for the modality"
    if case.stacked or is_channel(case.first):
        place = "in labelsTr beside imagesTr, by the name of the scan"
    if len(files) == 1:
        return f"{case.name} is without labels: {files[0]} may hold them; {place}, it is read"
    return f"{case.name} is without labels: they may be {files[0]} or {files[1]}; {place}, the right one is read"
