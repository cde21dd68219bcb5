"""What must not stand in the source, because a file that a user is handed could then run code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("monaiseg", "scripts", "bundles", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
)
MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy", "yaml",
    "http", "urllib", "urllib3", "requests", "ftplib", "telnetlib",
}  # fmt: skip
"""Modules that run what they read, or that reach the network."""
CALLS = {
    "eval", "exec", "compile", "__import__",
    "os.system", "os.popen", "tempfile.mktemp", "socket.socket", "socket.create_connection",
    "torch.jit.load", "torch.export.load", "torch.hub.load", "torch.package.PackageImporter",
    "monai.bundle.load", "monai.bundle.run", "monai.bundle.download",
}  # fmt: skip
ENDINGS = {
    "extractall", "unpack_archive", "algo_from_pickle", "algo_from_json", "PersistentDataset",
    "SmartCacheDataset", "NumpyReader", "safe_eval", "add_safe_globals", "load_state_dict_from_url",
}  # fmt: skip
"""Whatever they are reached through: MONAI's readers that unpickle or evaluate, and archives without a cap."""
WORDS = ("MONAI_ALLOW_PICKLE", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")


def faults(source: str) -> Iterator[str]:
    """What is wrong with a module's source, one line each."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {fault}" for fault in call_faults(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = [] if isinstance(node, ast.Import) else [node.module or ""]
            names = [".".join([*module, alias.name]) for alias in node.names]
            yield from (f"line {node.lineno}: imports {name}" for name in names if is_closed(name))


def is_closed(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in MODULES or is_forbidden(name)


def call_faults(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if is_forbidden(name):
        yield f"calls {name}"
    if name == "torch.load" and keywords.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if keywords.get("weights_only", "True") != "True":
        yield f"{name} with weights_only={keywords['weights_only']}"
    if keywords.get("allow_pickle", "False") != "False":
        yield f"{name} with allow_pickle={keywords['allow_pickle']}"
    if keywords.get("shell", "False") != "False":
        yield f"{name} through a shell"
    if keywords.get("pretrained", "False") != "False":
        yield f"{name} downloads weights"


def is_forbidden(name: str) -> bool:
    return name in CALLS or name.rsplit(".", maxsplit=1)[-1] in ENDINGS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_module_can_run_what_it_reads(path):
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_module_sets_a_switch_that_turns_guards_off(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Call) and (set(WORDS) & strings(node)):
            written = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.func)
            assert not written.startswith(
                ("os.environ[", "os.putenv", "os.environ.setdefault", "os.environ.update")
            )


def strings(node: ast.AST) -> set[str]:
    return {
        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import urllib.request",
        "eval('1')",
        "exec(text)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path, allow_pickle=True)",
        "torch.jit.load(path)",
        "archive.extractall(folder)",
        "from monai.apps.utils import extractall",
        "from monai.data import PersistentDataset",
        "monai.data.PersistentDataset(items, chain, cache_dir)",
        "resnet(pretrained=True)",
    ],
)
def test_the_gate_closes_before(source):
    assert list(faults(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        "np.load(path)",
        "network.eval()",
        "re.compile('a')",
    ],
)
def test_the_gate_is_open_for(source):
    assert not list(faults(source))
