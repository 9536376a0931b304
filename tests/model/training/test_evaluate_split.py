"""Measuring asks for nothing that only training needs."""

import subprocess
import sys

EXTRA = {"jinja2", "matplotlib", "peft", "sklearn", "tensorboard"}


def test_evaluating_imports_no_package_of_the_training_extra() -> None:
    program = f"import sys, model.training.commands; print(sorted({EXTRA} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
