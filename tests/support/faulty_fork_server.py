"""`app.engine.fork_server` with the faults of `tests.support.faulty` in the processes that compute."""

from unittest.mock import patch

from app.engine import fork_server
from app.engine.predictor import Predictor
from tests.support.faulty import faulty

if __name__ == "__main__":
    with patch.object(Predictor, "decide", faulty(Predictor.decide)):
        fork_server.main()
