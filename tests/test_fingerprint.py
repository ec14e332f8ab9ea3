"""A function's fingerprint changes with what its answers depend on, and with nothing else."""

import importlib
import logging
import os
import subprocess
import sys
import sysconfig
import textwrap
import threading
import venv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilevision
from tilevision.adapters.packing import pack, unpack
from tilevision.errors import ModelError
from tilevision.fingerprint import (
    fingerprint_file,
    fingerprint_function,
    fingerprint_value,
    installed,
    provenance,
)
from tilevision.fingerprint.provenance import version

RICH = """
import collections, dataclasses, enum, functools, logging, pathlib, re
import numpy as np, scipy.special, skimage.filters as filters
from PIL import Image

TAGS = {"bud", "arc", "cell", frozenset({"x", "y"}), (1, "z")}
LOG = logging.getLogger("model")
RULE = re.compile("a+b")
TABLE = np.arange(12, dtype=np.float32).reshape(3, 4)
ICON = Image.new("RGB", (3, 2), (1, 2, 3))
FOLDER = pathlib.Path("weights")
Pair = collections.namedtuple("Pair", "x y")
ORIGIN = Pair(1, 2)

class Kind(enum.Enum):
    STAR = 1
    GALAXY = 2

@dataclasses.dataclass
class Options:
    low: float = 0.5
    names: list = dataclasses.field(default_factory=list)
    def scaled(self):
        return self.low * helper(2)

class Counter:
    __slots__ = ("step",)
    def __init__(self, step):
        self.step = step
    def __call__(self, n):
        return n + self.step

def helper(n):
    return n * 2 if n in {"a", "b", "c"} else other(n)

def other(n):
    return helper(n - 1)

def loud(f):
    @functools.wraps(f)
    def inner(*args):
        return f(*args)
    return inner

@functools.lru_cache(maxsize=2)
def load():
    return np.ones(3)

OPTIONS, STEP = Options(0.25), Counter(3)
HALF = functools.partial(helper, n=3)

@loud
def detect(pixels, kind=Kind.STAR, *, table=TABLE):
    LOG.info("tile")
    np.clip(pixels, 0, 1), np.add(1, 2), scipy.special.expit(1), filters.gaussian(pixels)
    words = [helper(tag) for tag in TAGS]
    return words, OPTIONS.scaled(), STEP(1), HALF, RULE, ICON, FOLDER, ORIGIN.x, load(), missing
"""


def define(source: str, name: str = "detect", file: str = "<ipython-input-1-abc>"):
    """Run `source` as a notebook cell would, and return the function it defines."""
    namespace = {"__name__": "__main__", "__file__": file}
    exec(compile(textwrap.dedent(source), file, "exec"), namespace)
    return namespace[name]


def of(source: str, **kwargs: str) -> str:
    return fingerprint_function(define(source, **kwargs))


@pytest.mark.slow
def test_same_in_every_process():
    """Hash seeds, processes and file names change nothing."""
    script = (
        f"{RICH}\nfrom tilevision.fingerprint import fingerprint_function\n"
        "print(fingerprint_function(detect))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1", "4242")
    }
    assert printed == {of(RICH, file="/elsewhere/renamed.py")}


@pytest.mark.slow
def test_same_where_libraries_are_borrowed(tmp_path):
    """By a .pth file, as uv's overlays do it: NumPy is a library there too, and has a version."""
    venv.create(tmp_path / "env", with_pip=False)
    places = {"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")}
    folder, scripts = (sysconfig.get_path(n, "venv", places) for n in ("purelib", "scripts"))
    Path(folder, "lent.pth").write_text(str(Path(np.__file__).parents[1]))
    script = (
        f"{RICH}\nfrom tilevision.fingerprint import fingerprint_function\n"
        "def filled(pixels):\n    np.copyto(np.zeros(3), np.concatenate([pixels, pixels]))\n"
        "print(fingerprint_function(detect), fingerprint_function(filled))"
    )
    home = str(Path(tilevision.__file__).parents[1])
    printed = [
        subprocess.run(
            [python, "-c", script],
            env={**os.environ, "PYTHONPATH": home},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for python in (sys.executable, str(Path(scripts, "python")))
    ]
    assert printed[0] == printed[1] and len(set(printed[0])) == 2


def test_a_user_s_module_among_borrowed_libraries_is_read(tmp_path, monkeypatch):
    """Only what a distribution brought is a library there."""
    (tmp_path / "mine_among_lent.py").write_text("def half(x):\n    return x / 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(provenance, "_borrowed_folders", lambda: (tmp_path.resolve(),))
    importlib.import_module("mine_among_lent")
    monkeypatch.setitem(provenance._distributions(), "lent_one", ["lent-one"])
    (tmp_path / "lent_one.py").write_text("")
    importlib.import_module("lent_one")
    assert not provenance.installed.__wrapped__("mine_among_lent")
    assert provenance.installed.__wrapped__("lent_one")


def test_a_library_s_own_class_of_loggers_changes_nothing(monkeypatch):
    """Some make theirs the class of every new logger; a logger is its name all the same."""
    source = "import logging\nLOG = logging.getLogger({!r})\ndef detect(x):\n    LOG.info(x)"
    own = type("OwnLogger", (logging.Logger,), {"__module__": "sahi.logger"})
    monkeypatch.setitem(logging.root.manager.loggerDict, "spots", own("spots"))
    with_own = of(source.format("spots"))
    monkeypatch.setitem(logging.root.manager.loggerDict, "spots", logging.Logger("spots"))  # noqa: LOG001 - no library may have changed it
    assert of(source.format("spots")) == with_own
    assert of(source.format("other")) != with_own


def test_same_after_many_calls():
    """Python specialises the code it runs often; the fingerprint reads it as compiled."""
    f = define("def detect(x):\n    return [i + x for i in range(3)]")
    before = fingerprint_function(f)
    for _ in range(2000):
        f(1)
    assert fingerprint_function(f) == before


def test_place_and_prose_do_not_count():
    """Moving lines, comments, docstrings, annotations and the file's name change nothing."""
    plain = "def detect(x):\n    return x + 1"
    moved = (
        '# new\n\n\ndef detect(x: "int") -> "int":\n    "Say what."\n    # why\n    return x + 1'
    )
    assert of(plain) == of(moved, file="/other/place.py")


def test_docstring_counts_where_it_is_returned():
    """A text that is both docstring and answer is an answer."""
    assert of('def detect(x):\n    "a"\n    return "a"') != of(
        'def detect(x):\n    "b"\n    return "b"'
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return n * 2", "return n * 3"),  # a helper
        ("return helper(n - 1)", "return helper(n - 2)"),  # a helper's helper, in a cycle
        ('{"a", "b", "c"}', '{"a", "b", "d"}'),  # a constant set
        ('"bud"', '"bus"'),  # a global set
        ("(1, 'z')".replace("'", '"'), "(2, 'z')"),  # an item of it
        ("reshape(3, 4)", "reshape(4, 3)"),  # an array's shape
        ("np.float32", "np.float64"),  # its type
        ('"a+b"', '"a*b"'),  # a pattern
        ("(1, 2, 3))", "(1, 2, 4))"),  # a picture
        ("low: float = 0.5", "low: float = 0.6"),  # a field's default
        ("return self.low *", "return 2 * self.low *"),  # a method
        ("Options(0.25)", "Options(0.26)"),  # an instance's state
        ("Counter(3)", "Counter(4)"),  # a slot
        ("return n + self.step", "return n - self.step"),  # a callable instance's class
        ("partial(helper, n=3)", "partial(helper, n=4)"),
        ("GALAXY = 2", "GALAXY = 3"),  # another member of an enum
        ("kind=Kind.STAR", "kind=Kind.GALAXY"),  # a default
        ("return f(*args)", "return f(*args[:1])"),  # a decorator
        ("np.ones(3)", "np.zeros(3)"),  # behind a cache
        ("Pair(1, 2)", "Pair(2, 2)"),
        ('Path("weights")', 'Path("other")'),
        (", missing\n", ", absent\n"),  # a name that is not defined
        ("np.add(1, 2)", "np.subtract(1, 2)"),
    ],
)
def test_what_answers_depend_on_counts(old, new):
    """Editing the function, a helper, a constant or a global it reads changes it."""
    assert old in RICH
    assert of(RICH) != of(RICH.replace(old, new))


def test_globals_it_does_not_read_do_not_count():
    """Other cells of the notebook change nothing."""
    assert of(RICH) == of(RICH + "\nUNRELATED = object()\ndef another(): return UNRELATED\n")


def test_exception_ranges_count():
    """Moving a call out of ``try`` keeps the instructions but changes what is caught."""
    inside = "def detect(x):\n    try:\n        a(x); b(x)\n    except E:\n        pass"
    outside = "def detect(x):\n    try:\n        a(x)\n    except E:\n        pass\n    b(x)"
    assert of(inside) != of(outside)


def test_types_of_constants_count():
    """1, 1.0 and True are equal, and mean different things."""
    assert len({of(f"def detect(x):\n    return {c}") for c in ("1", "1.0", "True")}) == 3


def test_closures_and_lambdas_count():
    """What a function encloses is part of it."""
    source = "def make(t):\n    return lambda x: x > t\ndetect = make({})"
    assert of(source.format(1)) == of(source.format(1)) != of(source.format(2))


def test_recursive_structures_end():
    """Cycles through functions, closures and containers are walked once."""
    cyclic = "L = [1]\nL.append(L)\ndef detect(x):\n    return detect(x - 1) if x else L"
    assert of(cyclic) == of(cyclic) != of(cyclic.replace("[1]", "[2]"))


def test_long_chains_of_helpers_are_walked():
    """A thousand functions that call each other need no recursion."""
    chain = "\n".join(f"def f{i}(x): return f{i + 1}(x)" for i in range(1000))
    source = chain + "\ndef f1000(x): return {}\ndef detect(x): return f0(x)"
    assert of(source.format(1)) != of(source.format(2))


def test_bound_methods_count_their_object():
    """A method is its function and what it is bound to."""
    source = (
        "class C:\n    def __init__(s, v): s.v = v\n    def go(s, x): return s.v\ndetect = C({}).go"
    )
    assert of(source.format(1)) == of(source.format(1)) != of(source.format(2))


def test_numpy_subclass_state_and_slices_are_read():
    """An array is its values, not the memory it looks at."""
    base = np.arange(20)
    assert fingerprint_value(base[::2]) == fingerprint_value(base[::2].copy())
    assert fingerprint_value(base[::2]) != fingerprint_value(base[1::2])


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A folder on the import path, as that of a user's script; returns a module reloader."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = set()

    def load(**files: str):
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py")  # a folder without __init__.py
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            names.add(name.split("__")[0])
        for name in [m for m in sys.modules if m.split(".")[0] in names]:
            del sys.modules[name]
        importlib.invalidate_caches()
        for cached in tmp_path.rglob("__pycache__"):
            for file in cached.iterdir():
                file.unlink()

    yield load
    for name in [m for m in sys.modules if m.split(".")[0] in names]:
        del sys.modules[name]


def test_modules_beside_the_script_are_read_where_they_are_used(beside):
    """``helpers.threshold`` counts, what else helpers.py holds does not."""
    cell = "import fp_helpers\ndef detect(x): return fp_helpers.low(x)"
    module = "LIMIT = {}\ndef low(x): return x < LIMIT\ndef unused(x): return {}\n"
    beside(fp_helpers=module.format(1, 1))
    first = of(cell)
    beside(fp_helpers=module.format(1, 2))
    assert of(cell) == first
    beside(fp_helpers=module.format(2, 2))
    assert of(cell) != first


def test_packages_beside_the_script_are_followed(beside):
    """Attributes are followed through packages and their modules."""
    cell = "import fp_pkg.inner\ndef detect(x): return fp_pkg.inner.low(x)"
    beside(fp_pkg__inner="def low(x): return x < 1\n")
    first = of(cell)
    beside(fp_pkg__inner="def low(x): return x < 2\n")
    assert of(cell) != first


def test_module_handed_on_as_a_value_counts_whole(beside):
    """Where a module is used in ways that cannot be followed, all of it counts."""
    cell = "import fp_whole\ndef detect(x): return getattr(fp_whole, x)"
    beside(fp_whole="A = 1\n")
    first = of(cell)
    beside(fp_whole="A = 2\n")
    assert of(cell) != first


def test_importing_ones_own_module_while_running_is_refused(beside):
    """What is imported inside the function is not seen, so it must not be the user's."""
    beside(fp_late="A = 1\n")
    with pytest.raises(ModelError, match=r"fp_late.*at the top"):
        of("def detect(x):\n    import fp_late\n    return fp_late.A")
    of("def detect(x):\n    import json\n    from skimage import filters\n    return json, filters")


@pytest.mark.parametrize(
    ("setup", "kind"),
    [
        ("import threading; thing = threading.Lock()", "lock"),
        ("thing = open(__import__('os').devnull)", "TextIOWrapper"),
        ("thing = (i for i in range(3))", "generator"),
        ("import numpy; thing = numpy.random.default_rng(1)", "Generator"),
        ("import numpy; thing = numpy.frompyfunc(abs, 1, 1)", "ufunc"),
        ("import itertools; thing = {itertools.count()}", "count"),
    ],
)
def test_what_cannot_be_read_is_refused(setup, kind):
    """Never guess: the error names the object, its type and the remedy."""
    with pytest.raises(ModelError, match=rf"'thing'.*{kind}.*fingerprint='v1'"):
        of(f"{setup}\ndef detect(x): return thing")


def test_subclass_of_a_library_type_with_hidden_state_is_refused():
    """A class made by a C library may keep state where Python cannot see it."""
    with pytest.raises(ModelError, match="fingerprint='v1'"):
        fingerprint_value(type("Mine", (np.random.Generator,), {})(np.random.PCG64(1)))


def test_user_modules_are_told_from_libraries():
    """The standard library, installed packages and tilevision count by version."""
    assert all(map(installed, ("json", "sys", "numpy.linalg", "skimage.filters", "tilevision")))
    assert not any(map(installed, ("__main__", "no_such_module_anywhere", __name__, None)))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["skimage", "PIL", "dateutil", "numpy"])
def test_a_version_does_not_hang_on_what_was_imported(monkeypatch, module):
    """One who imports a library first, for another reason, has the same work restored."""
    importlib.import_module(module)
    before = version.__wrapped__(module)
    monkeypatch.delitem(sys.modules, module)
    assert before and version.__wrapped__(module) == before


def test_file_is_its_content(tmp_path):
    """Name and dates of a file do not count; a missing one is a clear error."""
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    a.write_bytes(b"weights")
    b.write_bytes(b"weights")
    os.utime(b, (1, 1))
    assert fingerprint_file(a) == fingerprint_file(str(b))
    b.write_bytes(b"weightz")
    assert fingerprint_file(a) != fingerprint_file(b)
    with pytest.raises(ModelError, match=r"c\.onnx.*check the path"):
        fingerprint_file(Path(tmp_path / "c.onnx"))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def shown(value: object) -> str:
    """Return a text that tells types, and 0.0 from -0.0."""
    return repr(value)


@pytest.mark.slow
@given(plain, plain)
def test_plain_values_are_told_apart(a, b):
    """Two values have one fingerprint exactly when they are the same to the last type."""
    assert (fingerprint_value(a) == fingerprint_value(b)) == (shown(a) == shown(b))


@given(st.sets(st.integers() | st.text(max_size=3) | st.tuples(st.integers(), st.text(max_size=2))))
def test_order_of_a_set_does_not_count(items):
    """A set is its items."""
    backwards = set()
    for item in sorted(items, key=repr, reverse=True):
        backwards.add(item)
    assert fingerprint_value(items) == fingerprint_value(backwards)


LAZY = """
import functools, threading

class Session:
    def __init__(self):
        self.lock = threading.Lock()
    def __call__(self, pixels):
        return [{"box": (1, 1, 5, 5)}]

net = None
def plain(pixels):
    global net
    if net is None:
        net = Session()
    return net(pixels)

ready, other = False, "unset"
def flagged(pixels):
    global ready, other
    if not ready:
        other, ready = Session(), True
    return other(pixels)

inner = None
def made():
    global inner
    inner = inner or Session()
    return inner
def through_a_helper(pixels):
    return made()(pixels)

CACHE = {"size": 5}
def constant_key(pixels):
    if "net" not in CACHE:
        CACHE["net"] = Session()
    return CACHE["net"](pixels)

BY_PATH = {}
def any_key(pixels):
    for path in ("a", "b"):
        if path not in BY_PATH:
            BY_PATH[path] = Session()
    return BY_PATH["a"](pixels)

SEEN = []
def listed(pixels):
    SEEN.append(Session())
    return SEEN[0](pixels)

CALLS = 0
def counting(pixels):
    global CALLS
    CALLS += 1
    return [{"box": (1, 1, 5, 5)}]
"""


@pytest.fixture
def lazy(tmp_path, monkeypatch):
    """Return the functions of a module that make what they need at their first call."""
    (tmp_path / "lazily.py").write_text(LAZY.replace('ready, other = False, "unset"',
                                                     'ready = False\nother = "unset"'))  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("lazily", None)
    yield importlib.import_module("lazily")
    sys.modules.pop("lazily", None)


@pytest.mark.parametrize(
    "name",
    ["plain", "flagged", "through_a_helper", "constant_key", "any_key", "listed", "counting"],
)
def test_what_a_function_leaves_behind_is_no_part_of_it(lazy, name):
    """A call by hand changes no identity, and the function travels as it was before the call.

    What was left may hold a lock, which neither has an identity nor can be sent.
    """
    function = getattr(lazy, name)
    before = fingerprint_function(function)
    answer = function(None)
    assert fingerprint_function(function) == before
    sent = unpack(pack(function, name))
    assert sent(None) == answer and sent(None) == answer


def test_globals_that_other_code_sets_still_count(lazy):
    """A threshold set by another function, and an entry that the function does not set, count."""
    source = "limit = 5\nCFG = {'a': 1}\n"
    source += "def set_limit(v):\n    global limit\n    limit = v\n"
    source += "def f(p):\n    CFG['calls'] = 1\n    return limit + CFG['a']\n"
    space = {"__name__": "__main__"}
    exec(source, space)
    first = fingerprint_function(space["f"])
    space["f"](None)
    assert fingerprint_function(space["f"]) == first
    space["set_limit"](6)
    second = fingerprint_function(space["f"])
    space["CFG"]["a"] = 2
    assert len({first, second, fingerprint_function(space["f"])}) == 3


def test_threads_may_fingerprint_at_once():
    """A walk keeps its state to itself."""
    found: list[str] = []
    f = define(RICH)
    threads = [
        threading.Thread(target=lambda: found.append(fingerprint_function(f))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
