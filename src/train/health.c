#include "catdpo/train/health.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LEAST_WINDOW = 3, ZERO_STEPS = 3 };
static const double MUCH_LOSS = 2, MUCH_NORM = 10; /* times that of the start */

void health_begin(Health *h, const Config *config, int64_t total_steps, double first_loss, double first_norm)
{
    int64_t window = total_steps / 5;
    *h = (Health){ .window = window < LEAST_WINDOW    ? LEAST_WINDOW
                             : window > HEALTH_WINDOW ? HEALTH_WINDOW
                                                      : (int)window,
                   .first_loss = first_loss,
                   .first_norm = first_norm,
                   .first_margin = config->margin.initial,
                   .margins_add_up = config->margin.aggregation == AGGREGATE_SUM };
}

/* A loss grows by no more than the margin that its pair has to exceed. */
static double explained(const Health *h, const double *margin, int categories)
{
    double largest = 0, sum = 0;
    for (int k = 0; k < categories; k++) {
        double growth = margin[k] - h->first_margin;
        largest = growth > largest ? growth : largest;
        sum += growth > 0 ? growth : 0;
    }
    return h->margins_add_up ? sum : largest;
}

static double mean(const Health *h, const double ring[HEALTH_WINDOW])
{
    double sum = 0;
    for (int i = 0; i < h->window; i++) sum += ring[i];
    return sum / h->window;
}

static bool sign_of(const Health *h, const StepMetrics *row, int categories, char text[HEALTH_TEXT], HealthSign *sign)
{
    bool full = h->steps >= h->window;
    double loss = mean(h, h->loss), norm = mean(h, h->norm), margins = explained(h, row->margin, categories);
    if (h->zero >= ZERO_STEPS) {
        *sign = HEALTH_ZERO;
        snprintf(text, HEALTH_TEXT,
                 "the gradient is zero, at a loss of %.3g: nothing is learned any more, and the weights are probably "
                 "ruined; start "
                 "again with a lower optimizer.learning_rate",
                 row->loss);
    } else if (full && loss > MUCH_LOSS * h->first_loss + margins) {
        *sign = HEALTH_LOSS;
        snprintf(text, HEALTH_TEXT,
                 "the loss is %.3g, that of the start was %.3g, and the margins explain no more than %.2g of it: the "
                 "training diverges; lower optimizer.learning_rate",
                 loss, h->first_loss, margins);
    } else if (full && h->clipped >= h->window && norm > MUCH_NORM * h->first_norm) {
        *sign = HEALTH_CLIPPED;
        snprintf(text, HEALTH_TEXT,
                 "every step is clipped, and the gradient's norm of %.3g is %.0f times that of the start: the training "
                 "diverges; lower optimizer.learning_rate",
                 norm, norm / h->first_norm);
    } else
        return false;
    return true;
}

bool health_step(Health *h, const StepMetrics *row, int category_count, char text[HEALTH_TEXT], bool *news)
{
    HealthSign sign;
    *news = false;
    if (row->skipped || !isfinite(row->loss) || !isfinite(row->grad_norm)) return false; /* told where it happens */
    if (isnan(h->first_loss)) h->first_loss = row->loss;
    if (isnan(h->first_norm)) h->first_norm = row->grad_norm;
    h->loss[h->steps % h->window] = row->loss;
    h->norm[h->steps % h->window] = row->grad_norm;
    h->steps++;
    h->zero = row->grad_norm == 0 && row->loss > 1e-6 ? h->zero + 1 : 0; /* at a loss of zero all is learned */
    h->clipped = row->clipped ? h->clipped + 1 : 0;
    if (!sign_of(h, row, category_count, text, &sign)) return false;
    *news = !h->said[sign];
    h->said[sign] = true;
    return true;
}
