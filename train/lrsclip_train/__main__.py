"""``python -m lrsclip_train CONFIG.toml``, what ``torchrun -m`` starts in each process."""

from __future__ import annotations

from lrsclip_rt.cli import main

if __name__ == "__main__":
    import sys

    sys.argv.insert(1, "train")
    main()
