"""The house itself: imports go down, a file holds one noun, and the promised names exist as written."""

import ast
import graphlib
import importlib
import inspect
import shutil
import subprocess
from pathlib import Path

import pytest

import keelnet as kn

SOURCE = Path(kn.__file__).parent
FLOORS = {
    "dynamics": 0,
    "data": 0,
    "propagation": 1,
    "networks": 2,
    "learning": 3,
    "analysis": 3,
    "experiments": 4,
    "app": 5,
    "cli": 6,
    "__main__": 7,
}
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
    if path.parent != SOURCE
}
NAMES = [str(path.relative_to(SOURCE)) for path in FILES]
SCRIPTS = sorted(SOURCE.rglob("*.js"))
NODE = shutil.which("node")
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=NAMES)


def room_of(path: Path) -> str:
    """The first folder below keelnet, or the name of a file that lies beside them."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def room_behind(name: str) -> str:
    """The room of a public name or of a full module path."""
    if name in kn.__all__:
        value = getattr(kn, name)
        name = value.__name__ if inspect.ismodule(value) else value.__module__
    return name.removeprefix("keelnet.").split(".")[0]


def rooms_used(tree: ast.AST) -> set[str]:
    """Every room that a file reaches, also by way of ``import keelnet as kn; kn.Verlet``."""
    rooms, doors = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.split(".")[0] == "keelnet"]
            rooms |= {room_behind(alias.name) for alias in names if alias.name != "keelnet"}
            doors |= {alias.asname or "keelnet" for alias in names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: an import names its room"
            if node.module == "keelnet":
                rooms |= {room_behind(alias.name) for alias in node.names}
            elif node.module.startswith("keelnet."):
                rooms.add(room_behind(node.module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in doors:
            rooms.add(room_behind(node.attr))
    return rooms - {"__version__", "__file__"}


@EVERY_FILE
def test_imports_only_go_down(path):
    room = room_of(path)
    if room == "__init__":
        return  # the public names, of every room
    assert room in FLOORS, f"{room} has no floor yet"
    for used in rooms_used(ast.parse(path.read_text())) - {room}:
        assert used in FLOORS, f"{used} is no room"
        assert FLOORS[used] < FLOORS[room]


def files_used(tree: ast.AST) -> set[str]:
    """Every file that a file imports, as the name of a module; also late, and for a type checker alone."""
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            used |= parts & MODULES.keys() or {node.module}
    return used & MODULES.keys()


def test_imports_make_no_cycle():
    used = {
        name: files_used(ast.parse(path.read_text(encoding="utf-8")))
        for name, path in MODULES.items()
    }
    graphlib.TopologicalSorter(used).prepare()


@pytest.mark.parametrize(
    ("code", "rooms"),
    [
        ("from keelnet.cli import main", {"cli"}),
        ("import keelnet.learning.descent", {"learning"}),
        ("from keelnet import data, Verlet", {"data", "propagation"}),
        ("import keelnet as kn\nkn.DenseKernel(3)\nkn.experiments", {"dynamics", "experiments"}),
        ("from keelnet import __version__\nimport torch.keelnet", set()),
        ("def late():\n    from keelnet.app import serve", {"app"}),
    ],
)
def test_the_law_of_floors_sees_every_way_to_import(code, rooms):
    assert rooms_used(ast.parse(code)) == rooms


@pytest.mark.skipif(NODE is None, reason="no node; on Debian: apt-get install nodejs")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_of_the_pages_can_be_read(script, tmp_path):
    """As the module that it is there, which node knows by the ending. What it does is seen in a browser alone."""
    module = tmp_path / "script.mjs"
    module.write_bytes(script.read_bytes())
    found = subprocess.run([NODE, "--check", module], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@EVERY_FILE
def test_a_file_names_a_noun_and_stays_short(path):
    assert path.stem not in ("utils", "util", "helpers", "common", "base", "misc")
    assert len(path.read_text().splitlines()) <= 320


@EVERY_FILE
def test_a_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@EVERY_FILE
def test_the_engine_neither_prints_nor_exits(path):
    if room_of(path) in ("cli", "__main__", "app"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("print", "exit", "sys.exit", "quit", "breakpoint")


def unnamed_encodings(tree: ast.AST) -> list[str]:
    """Calls that read or write text in the encoding of whichever system they run on."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(each.arg == "encoding" for each in node.keywords):
            continue
        modes = [*node.args[1:2], *(each.value for each in node.keywords if each.arg == "mode")]
        binary = any("b" in ast.unparse(mode) for mode in modes)
        opened = ast.unparse(node.func) == "open" and not binary
        if opened or (isinstance(node.func, ast.Attribute) and node.func.attr == "read_text"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@EVERY_FILE
def test_text_is_read_as_it_was_written(path):
    assert not unnamed_encodings(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("path.read_text()", 1),
        ("(a / 'b').read_text().splitlines()", 1),
        ("path.read_text(encoding='utf-8')", 0),
        ("open(name)", 1),
        ("open(name, 'w')", 1),
        ("open(name, 'rb')", 0),
        ("open(name, mode='rb')", 0),
        ("open('b.txt')", 1),
        ("open(name, encoding='utf-8')", 0),
        ("os.open(name, os.O_RDONLY)", 0),
    ],
)
def test_the_law_of_encodings_sees_every_way_to_read(code, count):
    assert len(unnamed_encodings(ast.parse(code))) == count


def test_the_package_itself_imports_nothing_large():
    """The command line prints its help without waiting for torch."""
    body = ast.parse((SOURCE / "__init__.py").read_text()).body
    eager = [node.module for node in body if isinstance(node, ast.ImportFrom)]
    assert set(eager) <= {"__future__", "importlib", "typing"}
    assert not any(isinstance(node, ast.Import) for node in body)


# Names and arguments that tools outside the project rely on. "=" marks arguments with a default.
SIGNATURES = {
    "propagate": "integrator field y0 controls step_size strategy=",
    "trajectory": "integrator field y0 controls step_size",
    "DenseKernel": "n k=",
    "ConvKernel": "channels dim= stencil=",
    "SingleField": "kernel activation=",
    "AntisymmetricField": "kernel activation= damping=",
    "HamiltonianField": "kernel activation=",
    "DoubleHamiltonianField": "kernel_y kernel_z activation=",
    "SymmetricField": "kernel activation=",
    "Euler": "",
    "Verlet": "start=",
    "Leapfrog": "",
    "Midpoint": "",
    "RK4": "",
    "IMEX": "diffusion",
    "store_all": "",
    "checkpointed": "",
    "reversible": "",
}
ARCHITECTURES = ["residual", "antisymmetric", "hamiltonian", "double_hamiltonian"]
ARCHITECTURES += ["parabolic", "second_order", "segmenter"]


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_names_exist_as_written(name):
    parameters = inspect.signature(getattr(kn, name)).parameters
    for wanted in SIGNATURES[name].split():
        assert wanted.rstrip("=") in parameters
        has_default = parameters[wanted.rstrip("=")].default is not inspect.Parameter.empty
        assert has_default == wanted.endswith("=")


@pytest.mark.parametrize(
    "name", [n for n in SIGNATURES if n not in ("store_all", "checkpointed", "reversible")]
)
def test_the_promised_arguments_come_first_and_in_order(name):
    wanted = [each.rstrip("=") for each in SIGNATURES[name].split()]
    parameters = inspect.signature(getattr(kn, name)).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    start = positional.index("kernel") if "kernel" in positional else 0
    order = [name for name in positional[start:] if name in wanted]
    assert order == wanted


def test_the_defaults_are_the_ones_written():
    assert kn.ConvKernel(2) == kn.ConvKernel(2, dim=3, stencil=3)
    assert kn.DenseKernel(3).outputs == 3
    assert kn.Verlet() == kn.Verlet(start="full")
    assert inspect.signature(kn.propagate).parameters["strategy"].default is kn.store_all


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_exist_as_written(name):
    assert callable(getattr(kn.architectures, name))


@pytest.mark.parametrize("name", ["stability", "diagnose"])
def test_analysis_exists_as_written(name):
    assert len(inspect.signature(getattr(kn.analysis, name)).parameters) >= 2


def test_every_public_name_can_be_reached():
    assert {"Control", "ModuleField", "Block", "Network", "StabilityWarning"} <= set(kn.__all__)
    for name in kn.__all__:
        assert getattr(kn, name) is not None
    assert set(kn.__all__) <= set(dir(kn))
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = kn.Trainer


LISTING = [
    ".".join(path.parent.relative_to(SOURCE.parent).parts)
    for path in FILES
    if path.name == "__init__.py" and "__all__ = [" in path.read_text(encoding="utf-8")
]


def test_the_package_lists_what_its_rooms_list():
    """A type checker reads the rooms, Python the package's own list of them."""
    for room, names in kn._ROOMS.items():
        module = importlib.import_module(room)
        values = [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
        assert sorted(names.split()) == sorted(values)


@pytest.mark.parametrize("room", LISTING)
def test_a_room_offers_what_it_lists(room):
    module = importlib.import_module(room)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(module, name) for name in module.__all__)
