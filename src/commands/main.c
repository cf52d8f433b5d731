/* catdpo: the table of commands, and what happens before and after one runs. */
#include "catdpo/parallel/blas_check.h"
#include "catdpo/commands/cli.h"
#include "catdpo/core/terminal.h"

static const CommandOption train_options[] = {
    { "--overwrite", NULL, NULL, "replace the run that run.dir holds", false },
    { "--resume", "FILE", NULL, "go on from the newest good checkpoint of run.dir, or from FILE", true },
    { "--allow", "LIST", NULL, "differences that --resume accepts, such as data,schedule (the refusal names them)",
      false },
    { "--take-over", NULL, NULL, "go on in the place of a copy that still writes to run.dir; that one stops", false },
    { 0 },
};

static const char *const splits[] = { "heldout", "train", "probe", NULL };

static const char *const attacks[] = { "targeted", "contrastive", "random", NULL };

static const CommandOption eval_options[] = {
    { "--model", "FILE", NULL, "model or checkpoint to evaluate (default: run.dir's final checkpoint, else model.path)",
      false },
    { "--data", "FILE", NULL, "prepared pairs, instead of data.path", false },
    { "--split", "NAME", splits, "pairs to evaluate on, instead of data.heldout", false },
    { "--out", "FILE", NULL, "file for the results (default: eval.h5 in the run directory)", false },
    { "--attack", "TYPE", attacks, "perturb prompts too (default: contrastive)", true },
    { "--features", NULL, NULL, "keep hidden features of completions, as eval.features does", false },
    { 0 },
};

static const CommandOption generate_options[] = {
    { "--model", "FILE", NULL, "model or checkpoint that answers, instead of model.path", false },
    { "--prompts", "FILE", NULL, "file of pairs or prompts, instead of data.path", false },
    { "--split", "NAME", NULL, "group of that file (default: its prompts, else those of data.heldout)", false },
    { "--out", "FILE", NULL, "file for the answers (default: samples.h5 in the run directory)", false },
    { "--overwrite", NULL, NULL, "replace answers of other settings, weights or prompts", false },
    { 0 },
};

static const CommandOption merge_options[] = {
    { "--weights", "W[,W...]", NULL, "weight of each model; they add up to 1 (default: all the same)", false },
    { "--out", "FILE", NULL, "file for the merged model", false },
    { "--overwrite", NULL, NULL, "replace that file", false },
    { "--unrelated", NULL, NULL, "merge also where the files do not say that the models come from one start", false },
    { 0 },
};

static const CommandOption plan_options[] = {
    { "--ranks", "N[,N...]", NULL, "ranks to plan for; several: the best grid of each", false },
    { "--nodes", "N", NULL, "or nodes of --ranks-per-node each", false },
    { "--ranks-per-node", "N", NULL, "ranks of a node (default: this machine's cores)", false },
    { "--memory-per-rank", "GB", NULL,
      "memory of a rank (default: parallel.memory_gb, else its share of what this job or machine has)", false },
    { "--hours", "H", NULL, "wall time of a job", false },
    { "--json", NULL, NULL, "print one JSON object", false },
    { "--gflops", "GF/s", NULL, "sgemm rate of a rank (default: measured here)", false },
    { "--memory-bandwidth-gb", "GB/s", NULL, "memory bandwidth of a rank (default: measured here, alone)", false },
    { "--bandwidth-gb", "GB/s", NULL, "network bandwidth of a node (default: 12.5)", false },
    { "--latency-us", "US", NULL, "time of a short message between nodes (default: 2)", false },
    { "--model-size", "SHAPE", NULL,
      "1b, 8b, 70b (Llama 3), gemma3-1b, -4b, -12b, -27b or hidden=..,mlp=..,layers=..,heads=..,groups=..,head=..,"
      "vocab=..,tied=..,family=..,window=..,full=.. instead of model.path",
      false },
    { "--tokens-per-pair", "N", NULL, "made-up pairs of N tokens on average, both sequences, instead of data.path",
      false },
    { "--completion-share", "X", NULL, "part of their tokens that is not prompt (default: 0.7)", false },
    { "--pairs", "N", NULL, "how many of them (default: 10000)", false },
    { 0 },
};

static const CommandOption selfcheck_options[] = {
    { "--threads", "N", NULL, "BLAS threads of a rank (default: 1)", false },
    { "--json", NULL, NULL, "print one JSON object", false },
    { 0 },
};

static const Command commands[] = {
    {
        .name = "train",
        .summary = "align a model on preference pairs by the objective in objective.type",
        .help =
            "Trains the model in model.path on the pairs in data.path and writes to the run directory run.dir:\n"
            "config.cfg and config.json (the settings as resolved), metrics.h5, log.jsonl, status.json (how it ended\n"
            "and why), reference.h5 (the reference model's log-probabilities, made once and reused while data and\n"
            "model stay the same) and checkpoints/, each of which is itself a model: at intervals (checkpoint.*), at\n"
            "the end, when the file checkpoint.request appears in the run directory, and before the program stops: on\n"
            "a signal (TERM, INT, USR1, USR2), for its time limit, or when the file stop appears there.\n"
            "--resume goes on from there, on any number of ranks and any grid; the same command line with --resume\n"
            "starts a run that has no checkpoint yet.\n"
            "The number of ranks is replicas x rows x columns of the process grid: see parallel.* in --help-config.\n",
        .examples = "  mpirun -n 2 catdpo train run.cfg\n"
                    "  mpirun -n 2 catdpo train run.cfg --resume\n"
                    "  mpirun -n 4 catdpo train run.cfg --set 'parallel.grid=[2,2]' --set run.dir=runs/second\n"
                    "  mpirun -n 2 catdpo train run.cfg --set objective.type=dpo --set run.dir=runs/baseline\n",
        .options = train_options,
        .run = command_train,
    },
    {
        .name = "eval",
        .summary = "accuracy, violation rate and reward margin of a model for each harm category",
        .help =
            "Runs a model over pairs it was not trained on and reports, for each category and over all of them,\n"
            "accuracy (how often the chosen response gained more than the rejected one), violation rate (as\n"
            "margin.signal defines it) and mean reward margin, with counts and 95 % confidence intervals, the worst\n"
            "category and the gap between best and worst: as a table on stdout and in an HDF5 file, which says by "
            "digest\n"
            "whose weights and data they are. The model is the final checkpoint of the run in run.dir if there is "
            "one,\n"
            "else model.path; the reference's log-probabilities are reused where they are known (reference.cache).\n"
            "--attack adds violation rates of prompts whose embeddings are perturbed, by radius (group eval).\n",
        .examples = "  mpirun -n 2 catdpo eval run.cfg\n"
                    "  mpirun -n 2 catdpo eval run.cfg --model model.h5 --out runs/first/eval-before.h5\n"
                    "  mpirun -n 2 catdpo eval run.cfg --data other.h5 --split train --out other-eval.h5\n"
                    "  mpirun -n 2 catdpo eval run.cfg --attack --features --set eval.steps=10\n",
        .options = eval_options,
        .run = command_eval,
    },
    {
        .name = "generate",
        .summary = "answers of a model to prompts: samples.h5",
        .help =
            "Generates answers to the prompts of a group of pairs (each prompt once) and writes them to samples.h5:\n"
            "tokens, text, log-probability and entropy of each token, and why each answer ended. The settings\n"
            "generate.* say how: greedy unless told otherwise. The same answers on any number of ranks, but for ties\n"
            "within rounding. What is there already is kept: the same command line goes on where it was stopped.\n"
            "Replicas share the prompts; a grid [R, 1] is better than [1, C], which gathers weights for each token.\n",
        .examples = "  mpirun -n 2 catdpo generate run.cfg --model runs/first/checkpoints/final.h5 --out answers.h5\n"
                    "  mpirun -n 2 catdpo generate run.cfg --set generate.samples=4 --set generate.temperature=1.0\n",
        .options = generate_options,
        .run = command_generate,
    },
    {
        .name = "merge",
        .summary = "average the weights of models: rewarded soups, P-SACPO",
        .help =
            "Writes the model whose every weight is the sum of those of the models, each times its weight in\n"
            "--weights: a point between what they were trained for (rewarded soups, arXiv 2306.04488; P-SACPO, arXiv\n"
            "2404.11049). Models and checkpoints of one shape and one tokenizer that were trained from one start; the\n"
            "result is a model like an imported one, without moments and margins, and names its sources.\n"
            "A model merged with itself is the same bits. On any number of ranks, each of which holds 48 MB.\n",
        .examples = "  catdpo merge helpful/checkpoints/final.h5 safe/checkpoints/final.h5 --out soup.h5\n"
                    "  mpirun -n 8 catdpo merge model.h5 runs/first/checkpoints/final.h5 --weights 0.25,0.75 "
                    "--out milder.h5\n",
        .options = merge_options,
        .files = true,
        .run = command_merge,
    },
    {
        .name = "check",
        .summary = "is a file whole? every kind of file that catdpo and catdpo-analysis write",
        .help =
            "Verifies models, checkpoints, pairs, metrics, references, evaluations, answers: structure, attributes,\n"
            "checksums of every byte, finite numbers, and what must hold between them. Prints for each file what it\n"
            "is, and `ok` or the first thing that is wrong with it. A directory stands for the files of the run in "
            "it.\n"
            "Of settings (*.cfg) it prints what differs from the defaults, or all mistakes.\n"
            "Needs neither mpirun nor an allocation, and memory for one file of pairs at most. Exit status 2 if a\n"
            "file is damaged, missing or none of these.\n",
        .examples = "  catdpo check run.cfg model.h5 pairs.h5\n"
                    "  catdpo check runs/first\n"
                    "  catdpo check runs/first/checkpoints/*.h5\n",
        .files = true,
        .serial = true,
        .run = command_check,
    },
    {
        .name = "selfcheck",
        .summary = "does this machine compute, talk and store as it should? the first minute on a new site",
        .help =
            "On the ranks that it is started on: every number of psgemm on small matrices, the gradients of a tiny\n"
            "model against finite differences, all layouts of the ranks against one rank alone, the same steps twice;\n"
            "in FOLDER (name the file system that runs will be on) a model written by one layout and read by others,\n"
            "a full disk, a file that is replaced while it is read; rates of sgemm, psgemm, memory, messages and the\n"
            "disk. Prints a table: ok, or what is wrong and what to do, and the options that tell `catdpo plan` of\n"
            "this machine. Leaves nothing behind. Exit status 1 if something is wrong; what is only slow is said.\n",
        .examples = "  mpirun -n 4 catdpo selfcheck /scratch/me\n"
                    "  srun --nodes=2 --ntasks-per-node=32 catdpo selfcheck $SCRATCH --json > site.json\n",
        .options = selfcheck_options,
        .folder = true,
        .run = command_selfcheck,
    },
    {
        .name = "plan",
        .summary = "what a run needs on how many ranks: memory, traffic, time, and the command to submit",
        .help =
            "What to take on so many ranks, what it costs (hours, node-hours, efficiency), whether fewer nodes would\n"
            "be faster or cheaper or how many it takes at least, and the sbatch command; then what that follows\n"
            "from: for each process grid that suits the ranks the memory of a rank, operations and bytes sent in a\n"
            "step, the time expected for it, and why a grid is refused; and what catdpo generate takes for the "
            "prompts\n"
            "of the data, if every answer has generate.max_tokens tokens.\n"
            "The steps are laid out as the run will do it; how fast a rank is, is measured here or given.\n"
            "Runs on one process without mpirun, on a login node. parallel.grid and parallel.replicas are ignored.\n"
            "The time is an estimate: of all ranks on nodes like this one, with nothing else on them.\n",
        .examples = "  catdpo plan run.cfg --ranks 16\n"
                    "  catdpo plan run.cfg --nodes 4 --ranks-per-node 48 --memory-per-rank 3.5 --hours 24\n"
                    "  catdpo plan run.cfg --model-size 8b --tokens-per-pair 800 --ranks 64,128,256 --json\n",
        .options = plan_options,
        .run = command_plan,
        .serial = true,
    },
    { 0 },
};

/* False if every rank is alone in a world of its own: its MPI and its launcher do not know each other. */
static bool launched_together(int launched, int rank, Error *err)
{
    int size;
    CHECK_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size));
    if (size > 1 || launched <= 1) return true;
    error_usage(
        err,
        "%d processes were started, and each of them is a run of its own: use the mpirun of the MPI that catdpo "
        "was built with, or the srun --mpi=... that fits it (srun --mpi=list shows what there is)",
        launched);
    if (rank == 0) fprintf(stderr, "catdpo: %s\n", err->message);
    return false;
}

int main(int argc, char *argv[])
{
    Cli cli;
    Error err = { 0 };
    terminal_make_plain();
    if (!cli_parse(&cli, argc, argv, commands, &err) || cli.action != CLI_RUN) { /* no MPI needed for this */
        bool speaks = cli_launch_rank() == 0;
        if (err.exit_status == EXIT_DONE && speaks) cli_answer(&cli, commands, stdout, &err);
        if (err.exit_status != EXIT_DONE && speaks) fprintf(stderr, "catdpo: %s\n", err.message);
        cli_free(&cli);
        return err.exit_status;
    }

    if (!cli.line.command->files) blas_repair(argv); /* may start the program again */
    if (cli.line.command->serial) {                  /* one process, also if mpirun started several */
        int status = cli_launch_rank() == 0 ? cli.line.command->run(&cli.line, MPI_COMM_NULL) : EXIT_DONE;
        cli_free(&cli);
        return status;
    }

    int provided, launched = cli_launch_size(), rank = cli_launch_rank(); /* MPI_Init may set such variables itself */
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    int exit_status =
        launched_together(launched, rank, &err) ? cli.line.command->run(&cli.line, MPI_COMM_WORLD) : err.exit_status;
    cli_free(&cli);
    MPI_Finalize();
    return exit_status;
}
