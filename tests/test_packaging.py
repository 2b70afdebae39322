"""The package imports with torch and numpy alone, and puts nothing else at the top level of an environment."""

import subprocess
import sys
import tomllib
from pathlib import Path

PROGRAM = """
import sys

# What torch and numpy themselves import, and the standard library; everything else an extra may bring is refused.
REFUSED = {
    "aedat", "expelliarmus", "h5py", "hypothesis", "lightning", "lightning_fabric", "matplotlib", "nir", "nirtorch",
    "norse", "onnx", "onnxruntime", "onnxscript", "pandas", "pytest", "ray", "rich", "safetensors", "scipy", "sinabs",
    "sklearn", "snntorch", "tensorboard", "tonic", "torchvision", "typer", "yaml",
}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"refused {name}", name=name)


sys.meta_path.insert(0, Refuse())
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM + program], capture_output=True, text=True, check=False)


def test_the_import_hook_refuses():
    result = run("import h5py")
    assert result.returncode == 1
    assert "refused h5py" in result.stderr


def test_import_needs_torch_and_numpy_alone():
    result = run("import lsc_snn, lsc_snn.adapters; print('imported', sorted(REFUSED & sys.modules.keys()))")
    assert result.stdout.strip() == "imported []", result.stderr


def test_core_modules_need_torch_and_numpy_alone():
    result = run("import lsc_snn.optim, lsc_snn.surrogate, lsc_snn.theory; print('imported')")
    assert result.stdout.strip() == "imported", result.stderr


def test_datasets_and_experiments_install_inside_the_package(tmp_path):
    program = """
import importlib.util, lsc_snn.datasets, lsc_snn.experiments
print(lsc_snn.datasets.__name__, lsc_snn.experiments.__name__, importlib.util.find_spec("experiments"))
"""
    # Away from the repository, whose folders would otherwise be importable by their names on disk.
    command = [sys.executable, "-P", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.stdout.strip() == "lsc_snn.datasets lsc_snn.experiments None", result.stderr


def test_every_folder_of_modules_is_installed():
    root = Path(__file__).parents[1]
    setuptools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    names_on_disk = {"lsc_snn": "lsc_snn", "datasets": "lsc_snn.datasets", "experiments": "lsc_snn.experiments"}
    found = {
        ".".join([names_on_disk[folder], *module.parent.relative_to(root / folder).parts])
        for folder in names_on_disk
        for module in (root / folder).rglob("*.py")
    }
    assert found == set(setuptools["packages"])
    assert setuptools["package-dir"] == {name: folder for folder, name in names_on_disk.items()}
