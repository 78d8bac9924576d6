"""The interpreter, where these tests run in it, without what it computes for nothing."""

from __future__ import annotations

import dataclasses
import os

if os.environ.get("TRITON_INTERPRET") == "1":
    from triton.runtime.interpreter import interpreter_builder

    # Of every integer operation it computes in 64 bits whether 32 overflow, half its time, and without `debug` asserts
    # nothing of it.
    interpreter_builder.options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)
