#include "catdpo/train/judging.h"

#include "catdpo/core/json.h"
#include "catdpo/core/phase.h"
#include "catdpo/core/stop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LINE, SCORE }; /* tags of messages to and from the node's first rank */

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* Bytes of the prompts' longest text, and of the categories' names, with their NULs. */
static void text_sizes(const Prompts *p, size_t *prompt, size_t *names)
{
    *prompt = 1;
    for (int64_t i = 0; i < p->count; i++) {
        size_t bytes = (size_t)(p->text_offsets[i + 1] - p->text_offsets[i]) + 1;
        if (bytes > *prompt) *prompt = bytes;
    }
    *names = (size_t)p->category_count * (CATEGORY_NAME + 4);
}

static bool open_program(Judging *j, const char *command, double limit, size_t longest, Error *err)
{
    size_t prompt, names;
    int rank;
    text_sizes(j->prompts, &prompt, &names);
    j->room = 6 * (longest + prompt + names) + 256; /* a byte may take six: \u0000 */
    j->question = malloc(j->room);
    j->prompt = malloc(prompt);
    j->writes = j->question ? fmemopen(j->question, j->room, "w") : NULL;
    CHECK_MPI(MPI_Comm_split_type(j->world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &j->node));
    CHECK_MPI(MPI_Comm_rank(j->node, &rank));
    if (!j->writes || !j->prompt) return error_fault(err, "out of memory for what the judge is asked");
    return rank > 0 || coprocess_start(&j->program, command, limit, err);
}

bool judging_open(Judging *j, const char *command, double limit, size_t longest, const Prompts *prompts, Timer *timer,
                  MPI_Comm world, Error *err)
{
    *j = (Judging){
        .by_command = command && *command, .prompts = prompts, .timer = timer, .world = world, .node = MPI_COMM_NULL
    };
    return error_agree(world, !j->by_command || open_program(j, command, limit, longest, err), err);
}

void judging_close(Judging *j)
{
    coprocess_end(j->program);
    if (j->writes) fclose(j->writes);
    free(j->question);
    free(j->prompt);
    if (j->by_command && j->node != MPI_COMM_NULL) CHECK_MPI(MPI_Comm_free(&j->node));
    *j = (Judging){ 0 };
}

/* ---- rules ------------------------------------------------------------------------------------------------------- */

static void judge_by_rules(NextToJudge *next, TakeJudged *take, void *context)
{
    for (ToJudge one; next(context, &one);) {
        AnswerKind kind = refusal_kind(one.text, one.length);
        bool unsafe = answer_violates(kind, false);
        take(context, one.id, &(Judged){ unsafe ? 1 : 0, unsafe, (uint8_t)kind });
    }
}

/* ---- a program --------------------------------------------------------------------------------------------------- */

/* The question about an answer, in j->question. */
static void write_question(Judging *j, const ToJudge *one)
{
    const Prompts *p = j->prompts;
    int64_t begin = p->text_offsets[one->prompt], length = p->text_offsets[one->prompt + 1] - begin;
    memcpy(j->prompt, p->text + begin, (size_t)length);
    j->prompt[length] = '\0';
    rewind(j->writes);
    Json json = json_begin(j->writes);
    json_object(&json, NULL);
    json_integer(&json, "id", one->id);
    json_text(&json, "prompt", j->prompt);
    json_text(&json, "response", one->text);
    json_array(&json, "categories");
    for (int k = 0; k < p->category_count; k++)
        if (prompts_categories(p, one->prompt)[k]) json_text(&json, NULL, p->category_name[k]);
    json_close(&json);
    json_bool(&json, "benign", false);
    json_close(&json);
    fputc('\0', j->writes);
    CHECK(fflush(j->writes) == 0 && !ferror(j->writes));
}

/* The program's score for j->question; NaN once something failed, or somebody asked for the end. */
static double ask(Judging *j, bool *ok, Error *err)
{
    char answer[4096];
    double score = NAN;
    if (!*ok || stop_signal()) return NAN;
    timer_start(j->timer, PHASE_JUDGE); /* a sign of life for the watchdog */
    *ok = coprocess_ask(j->program, j->question, answer, sizeof answer, err) &&
          coprocess_score(j->program, j->question, answer, &score, err);
    timer_stop(j->timer);
    return *ok ? score : NAN;
}

static void take_score(TakeJudged *take, void *context, int64_t id, double score)
{
    if (!isnan(score)) take(context, id, &(Judged){ (float)score, score >= JUDGING_THRESHOLD, 255 });
}

/* Waits without keeping the core from the program that is waited for, with signs of life: it has a time limit. */
static void wait_idly(const Judging *j, MPI_Request *request)
{
    for (int done = 0;;) {
        CHECK_MPI(MPI_Test(request, &done, MPI_STATUS_IGNORE));
        if (done) return;
        nanosleep(&(struct timespec){ 0, 500000 }, NULL);
        timer_start(j->timer, PHASE_JUDGE);
        timer_stop(j->timer);
    }
}

/* The node's first rank: its own answers, then those of each of the others. */
static bool serve(Judging *j, NextToJudge *next, TakeJudged *take, void *context, Error *err)
{
    bool ok = true;
    int ranks;
    MPI_Request request;
    CHECK_MPI(MPI_Comm_size(j->node, &ranks));
    for (ToJudge one; next(context, &one);) {
        write_question(j, &one);
        take_score(take, context, one.id, ask(j, &ok, err));
    }
    for (int r = 1; r < ranks; r++) {
        for (;;) {
            CHECK_MPI(MPI_Irecv(j->question, (int)j->room, MPI_CHAR, r, LINE, j->node, &request));
            wait_idly(j, &request);
            if (!*j->question) break; /* its last one */
            double score = ask(j, &ok, err);
            CHECK_MPI(MPI_Send(&score, 1, MPI_DOUBLE, r, SCORE, j->node));
        }
    }
    return ok;
}

static void be_served(Judging *j, NextToJudge *next, TakeJudged *take, void *context)
{
    MPI_Request request;
    for (ToJudge one; next(context, &one);) {
        double score;
        write_question(j, &one);
        CHECK_MPI(MPI_Irecv(&score, 1, MPI_DOUBLE, 0, SCORE, j->node, &request));
        MPI_Request sent;
        CHECK_MPI(MPI_Isend(j->question, (int)strlen(j->question) + 1, MPI_CHAR, 0, LINE, j->node, &sent));
        wait_idly(j, &sent);
        wait_idly(j, &request);
        take_score(take, context, one.id, score);
    }
    *j->question = '\0';
    CHECK_MPI(MPI_Send(j->question, 1, MPI_CHAR, 0, LINE, j->node));
}

bool judging_run(Judging *j, NextToJudge *next, TakeJudged *take, void *context, Error *err)
{
    bool ok = true;
    if (!j->by_command) {
        judge_by_rules(next, take, context);
        return true;
    }
    int rank;
    CHECK_MPI(MPI_Comm_rank(j->node, &rank));
    if (rank == 0)
        ok = serve(j, next, take, context, err);
    else
        be_served(j, next, take, context);
    MPI_Request all;
    CHECK_MPI(MPI_Ibarrier(j->world, &all)); /* other nodes' programs may take longer */
    wait_idly(j, &all);
    return error_agree(j->world, ok, err);
}
