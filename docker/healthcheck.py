"""Ask the URL given as the only argument; end with 0 when it answers 200, with 1 otherwise.

For: the container's health check, with what the image has anyway.
"""

import sys
import urllib.request

SECONDS = 4  # under the health check's own time limit

if __name__ == "__main__":
    # Without proxies: the service is in this very container, whatever http_proxy says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(sys.argv[1], timeout=SECONDS) as answer:
            healthy = answer.status == 200
    except OSError as error:
        print(error, file=sys.stderr)
        healthy = False
    sys.exit(0 if healthy else 1)
