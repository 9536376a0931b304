"""EMMR: the network, its features and its training. Never imports `app`."""
