"""The shipped wing runs where torch is not installed."""

import subprocess
import sys

WALK = """
import importlib, pkgutil, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "lightning", "lhotse"}:
            raise ImportError(f"the shipped wing imported {name}")

sys.meta_path.insert(0, Refused())
import earshot
names = []
for wing in ("audit", "core", "data", "modelfile", "runtime", "decode", "session"):
    package = importlib.import_module(f"earshot.{wing}")
    for module in pkgutil.walk_packages(package.__path__, f"earshot.{wing}."):
        importlib.import_module(module.name)
        names.append(module.name)
earshot.Recognizer
print(len(names), sorted({"sentencepiece", "soundfile", "typer", "rich"} & set(sys.modules)))
"""


def test_no_module_of_the_shipped_wing_imports_torch():
    out = subprocess.run([sys.executable, "-c", WALK], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    count, _, loaded = out.stdout.partition(" ")
    assert int(count) >= 15
    # SentencePiece waits until text is encoded, and nothing below the commands prints.
    assert loaded.strip() == "['soundfile']"
