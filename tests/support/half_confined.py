"""A decoder process on a kernel without Landlock: `python -m tests.support.half_confined`."""

from unittest.mock import patch

from app.decoding.worker import main

if __name__ == "__main__":
    with patch("app.decoding.sandbox.restrict_files", lambda: False):
        main()
