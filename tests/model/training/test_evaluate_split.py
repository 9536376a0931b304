import subprocess
import sys

TRAINING_ONLY = {"h5py", "jinja2", "matplotlib", "peft", "tensorboard"}


def test_evaluating_imports_no_package_that_only_training_needs() -> None:
    program = f"import sys, model.training.commands; print(sorted({TRAINING_ONLY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
