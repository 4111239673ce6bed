"""Triton kernels: ``forward`` and ``backward`` of ``<op>.py`` take the arguments of ``hardfast::<op>`` and its backward."""
