"""Triton kernels: ``<op>.py`` has ``forward`` and ``backward``, called like ``hardfast::<op>`` and its backward."""
