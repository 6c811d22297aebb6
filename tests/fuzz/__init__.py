"""Fuzzing: every parser of files and query texts gets damaged, forged and random input.

A harness (``harness.py``) feeds one parser and knows how its input is put together, so that mutations reach
what lies behind the first check. Whatever comes in, the parser answers or raises an ``LrsclipError``; it does
not crash, hang, raise anything else or keep memory. ``scripts/fuzz`` runs any number of cases in child
processes, ``test_fuzz.py`` a sample of them; what was found once stands in ``tests/hostile/corpus.jsonl``.
"""
