"""Importing the package needs little, touches no device and prints nothing."""

import subprocess
import sys

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def _run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_import_without_optional_packages():
    blocked = {"triton", "torchvision", "transformers", "tensorboard", "tokenizers", "scipy",
               "typer", "rich", "yaml", "PIL", "safetensors", "matplotlib"}  # fmt: skip
    result = _run(BLOCK.format(blocked=blocked) + "import vireid_fast; vireid_fast.rerank")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "" and result.stderr == ""


def test_import_does_not_touch_a_device_or_import_triton():
    result = _run(
        "import sys, torch, vireid_fast\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'triton' not in sys.modules and 'vireid_fast.clip' not in sys.modules"
    )
    assert result.returncode == 0, result.stderr


def test_public_names_are_documented():
    result = _run(
        "import vireid_fast\n"
        "for name in vireid_fast.__all__:\n"
        "    value = getattr(vireid_fast, name)\n"
        "    assert isinstance(value, str) or value.__doc__, name"
    )
    assert result.returncode == 0, result.stderr
