"""A coverage-guided fuzzer over the readers of files: ``make fuzz``, or ``PYTHONPATH=tests python -m fuzz --help``.

A :class:`fuzz.reader.Reader` makes small valid files, damages them as someone would who knows the format, lets the
library read one, and compares what was read with an independent reading. Atheris (libFuzzer for Python) keeps inputs
that reach new lines of the reader, of the library and below it, and damages those further.
"""
