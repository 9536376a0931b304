"""Measuring asks for nothing that only training needs."""

import subprocess
import sys


def test_evaluating_imports_no_package_of_the_training_extra() -> None:
    program = "import sys, model.training.commands; print(sorted({'peft', 'tensorboard'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
