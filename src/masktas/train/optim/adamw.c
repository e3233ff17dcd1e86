/* AdamW on leading slices, one pass over every entry. Compiled when first needed: cpu.py. */
#include <math.h>
#include <stdint.h>

struct job {                 /* a slice [rows, cols]; 0 rows: not sampled */
    float *weight, *exp_avg, *exp_avg_sq, *step;
    const float *grad;       /* dense */
    const int64_t *row_edges, *col_edges;
    int64_t rows, cols, stride, col_tiles;
    double lr, decay;
};

/* Count one more step for every tile of every slice. */
static void count(const struct job *jobs, int64_t n)
{
    for (const struct job *j = jobs; j < jobs + n; j++)
        for (int64_t r = 0; j->rows && (r == 0 || j->row_edges[r - 1] < j->rows); r++)
            for (int64_t c = 0; c == 0 || j->col_edges[c - 1] < j->cols; c++)
                j->step[r * j->col_tiles + c] += 1;
}

/* AdamW on n entries that share a count; rate = lr / (1 - beta1^t), root = sqrt(1 - beta2^t). */
static void run(float *restrict w, const float *restrict g, float *restrict m, float *restrict v,
                int64_t n, float rate, float root, float keep, const float *betas, float eps)
{
    const float beta2 = betas[1], new1 = betas[2], new2 = betas[3], scale = 1 / root;
    for (int64_t i = 0; i < n; i++) {
        m[i] += new1 * (g[i] - m[i]);
        v[i] = beta2 * v[i] + new2 * (g[i] * g[i]);
        w[i] = keep * w[i] - rate * m[i] / (sqrtf(v[i]) * scale + eps);
    }
}

/* The hardware fetches ahead along a row, but not over the gap to the next row's start. */
static void fetch(const float *row, int64_t n)
{
    for (int64_t i = 0; i < n && i < 256; i += 16)          /* lines of 64 bytes, up to 1 KB */
        __builtin_prefetch(row + i, 1);
}

/* Rows first to last of one slice, all in the row of tiles whose counts are `step`. */
static void rows(const struct job *j, int64_t first, int64_t last, const float *step,
                 double beta1, double beta2, double eps)
{
    const float betas[] = {beta1, beta2, 1 - beta1, 1 - beta2}, keep = 1 - j->lr * j->decay;
    for (int64_t from = 0, c = 0; from < j->cols; c++) {
        while (j->col_edges[c] < j->cols && step[c + 1] == step[c])
            c++;                                            /* neighbours with equal counts */
        const float rate = j->lr / (1 - pow(beta1, step[c]));
        const float root = sqrt(1 - pow(beta2, step[c]));
        const int64_t to = j->col_edges[c];
        for (int64_t r = first; r < last; r++) {
            const int64_t at = r * j->stride + from, below = at + j->stride;
            if (r + 1 < last) {
                fetch(j->weight + below, to - from);
                fetch(j->exp_avg + below, to - from);
                fetch(j->exp_avg_sq + below, to - from);
            }
            run(j->weight + at, j->grad + r * j->cols + from, j->exp_avg + at, j->exp_avg_sq + at,
                to - from, rate, root, keep, betas, eps);
        }
        from = to;
    }
}

/* One share of the rows of every slice. */
static void update(const struct job *jobs, int64_t n, int64_t share, int64_t shares,
                   double beta1, double beta2, double eps)
{
    for (const struct job *j = jobs; j < jobs + n; j++) {
        const int64_t last = j->rows * (share + 1) / shares;
        int64_t first = j->rows * share / shares;
        for (int64_t t = 0; first < last; t++)
            if (j->row_edges[t] > first) {
                const int64_t end = j->row_edges[t] < last ? j->row_edges[t] : last;
                rows(j, first, end, j->step + t * j->col_tiles, beta1, beta2, eps);
                first = end;
            }
    }
}

void step(const struct job *jobs, int64_t n, int64_t threads,
          double beta1, double beta2, double eps)
{
    count(jobs, n);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t share = 0; share < threads; share++)
        update(jobs, n, share, threads, beta1, beta2, eps);
}
