#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__AVX512F__) && !defined(__clang__)
#define LANES 16
#elif defined(__AVX2__) && !defined(__clang__)
#define LANES 8
#else
#define LANES 1                     /* no shuffle of two vectors by a third */
#endif
#define BLOCK 1024                  /* pixels recoloured at once */
#define PAD (2 * LANES)             /* vectors are read from any pixel of a row */
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

struct axis {                       /* what each of `out` pixels takes of `in` pixels */
    int64_t in, out, wide, taps;    /* wide: out, rounded up to whole vectors */
    int32_t *first;                 /* the first pixel taken */
    float *weight;                  /* [taps, wide] */
    int32_t *base, *lane;           /* first, as base of the vector plus lane */
    int near;                       /* whether all that a vector takes lies in two vectors */
};

static int64_t whole(int64_t n) { return (n + LANES - 1) / LANES * LANES; }
static int64_t room(int64_t in, int64_t out) { return 2 * ((in + out - 1) / out) + 2; }

/* Share vectors out: lanes hold where a pixel starts, counted from the vector's first. */
static void vectors(struct axis *a)
{
    a->near = LANES > 1;
    for (int64_t x = 0; x < a->wide; x += LANES) {
        int32_t least = INT32_MAX;
        for (int64_t i = x; i < x + LANES && i < a->out; i++)
            least = a->first[i] < least ? a->first[i] : least;
        a->base[x / LANES] = least;
        for (int64_t i = x; i < x + LANES; i++) {
            a->lane[i] = i < a->out ? a->first[i] - least : 0;
            a->near &= a->lane[i] + a->taps <= 2 * LANES;
        }
    }
}

/* The triangle filter, as wide as an output pixel is, at least one pixel to each side. */
static void fill(struct axis *a, int flip)
{
    const double scale = (double)a->in / a->out, support = scale > 1 ? scale : 1;
    const int64_t most = room(a->in, a->out);
    a->taps = 1;
    for (int64_t i = 0; i < a->out; i++) {
        const double center = (i + .5) * scale;
        const int64_t from = fmax(center - support + .5, 0);
        const int64_t to = fmin(center + support + .5, a->in);
        const int64_t at = flip ? a->out - 1 - i : i;
        double sum = 0;
        for (int64_t k = from; k < to; k++)
            sum += fmax(1 - fabs(k + .5 - center) / support, 0);
        a->first[at] = from;
        for (int64_t k = from; k < to && k < from + most; k++) {
            const float weight = fmax(1 - fabs(k + .5 - center) / support, 0) / sum;
            a->weight[(k - from) * a->wide + at] = weight;
            if (weight > 0 && k - from >= a->taps)
                a->taps = k - from + 1;
        }
    }
    vectors(a);
}

/* One row of pixels [n, channels] as floats [channels, n + PAD]. */
static void part(const uint8_t *in, int64_t n, int64_t channels, float *out)
{
    const int64_t plane = n + PAD;
    if (channels == 3) {            /* known strides become shuffles */
        float *restrict r = out, *restrict g = out + plane, *restrict b = out + 2 * plane;
        for (int64_t x = 0; x < n; x++) {
            r[x] = in[3 * x];
            g[x] = in[3 * x + 1];
            b[x] = in[3 * x + 2];
        }
    } else
        for (int64_t c = 0; c < channels; c++)
            for (int64_t x = 0; x < n; x++)
                out[c * plane + x] = in[channels * x + c];
}

static void along(const float *row, const struct axis *a, float *out)
{
#if LANES > 1
    if (a->near) {
        for (int64_t x = 0; x < a->wide; x += LANES) {
            const float *from = row + a->base[x / LANES];
            const vec low = *(const vec *)from, high = *(const vec *)(from + LANES);
            const ivec lane = *(const ivec *)(a->lane + x);
            vec sum = __builtin_shuffle(low, high, lane) * *(const vec *)(a->weight + x);
            for (int32_t k = 1; k < a->taps; k++)
                sum += __builtin_shuffle(low, high, lane + k)
                    * *(const vec *)(a->weight + k * a->wide + x);
            *(vec *)(out + x) = sum;
        }
        return;
    }
#endif
    for (int64_t x = 0; x < a->out; x++) {
        float sum = a->weight[x] * row[a->first[x]];
        for (int64_t k = 1; k < a->taps && a->weight[k * a->wide + x] > 0; k++)
            sum += a->weight[k * a->wide + x] * row[a->first[x] + k];
        out[x] = sum;
    }
}

/* The weighted sum of rows, times gain, plus bias. */
static void mix(const float *const *rows, const float *weights, int64_t taps, int64_t n,
                float gain, float bias, float *restrict out)
{
    const float *restrict r = rows[0], *restrict s = rows[1], p = weights[0], q = weights[1];
    if (taps == 1)
        for (int64_t x = 0; x < n; x++)
            out[x] = r[x] * gain + bias;
    else if (taps == 2)
        for (int64_t x = 0; x < n; x++)
            out[x] = (p * r[x] + q * s[x]) * gain + bias;
    else {
        for (int64_t x = 0; x < n; x++)
            out[x] = p * r[x] + q * s[x];
        for (int64_t k = 2; k < taps; k++) {
            const float *restrict t = rows[k];
            for (int64_t x = 0; x < n; x++)
                out[x] += weights[k] * t[x];
        }
        for (int64_t x = 0; x < n; x++)
            out[x] = out[x] * gain + bias;
    }
}

/* Rows are scaled along once, when first needed, and kept while they are: `ring`. */
static void scale(const uint8_t *in, int64_t stride, int64_t channels,
                  const struct axis *down, const struct axis *across,
                  const float *gain, const float *bias, float *out, float *planes, float *ring)
{
    const int64_t slots = down->taps + 1;
    for (int64_t y = 0, done = 0; y < down->out; y++) {
        const int64_t first = down->first[y];
        const float *rows[slots];
        float weights[slots];
        int64_t taps = 0;
        for (int64_t k = 0; k < slots; k++) {
            weights[k] = k < down->taps ? down->weight[k * down->wide + y] : 0;
            taps += weights[k] > 0;
        }
        for (done = done > first ? done : first; done < first + taps; done++) {
            part(in + done * stride, across->in, channels, planes);
            for (int64_t c = 0; c < channels; c++)
                along(planes + c * (across->in + PAD), across,
                      ring + (done % slots * channels + c) * across->wide);
        }
        for (int64_t c = 0; c < channels; c++) {
            for (int64_t k = 0; k < slots; k++)
                rows[k] = ring + ((first + k) % slots * channels + c) * across->wide;
            mix(rows, weights, taps, across->out, gain[c], bias[c],
                out + (c * down->out + y) * across->out);
        }
    }
}

static float within(float value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

/* Grey of n <= BLOCK pixels: luminance of three channels, else their mean. */
static void grey(const float *image, int64_t plane, int64_t channels, int64_t n, float *out)
{
    const float luma[] = {0.299f, 0.587f, 0.114f};
    for (int64_t i = 0; i < n; i++)
        out[i] = 0;
    for (int64_t c = 0; c < channels; c++) {
        const float share = channels == 3 ? luma[c] : 1.f / channels;
        for (int64_t i = 0; i < n; i++)
            out[i] += share * image[c * plane + i];
    }
}

/* Brightness, contrast, saturation, as augment.recolor; then times gain, plus bias. */
static void recolor(float *image, int64_t plane, int64_t channels, const float *factors,
                    const float *gain, const float *bias)
{
    float shade[BLOCK];
    double sum = 0;
    for (int64_t at = 0; at < plane; at += BLOCK) {
        const int64_t n = plane - at < BLOCK ? plane - at : BLOCK;
        for (int64_t c = 0; c < channels; c++) {
            float *restrict pixel = image + c * plane + at;
            for (int64_t i = 0; i < n; i++)
                pixel[i] = within(pixel[i] * factors[0]);
        }
        grey(image + at, plane, channels, n, shade);
        float parts[LANES] = {0};
        for (int64_t i = 0; i + LANES <= n; i += LANES)
            for (int64_t k = 0; k < LANES; k++)
                parts[k] += shade[i + k];
        for (int64_t i = n / LANES * LANES; i < n; i++)
            sum += shade[i];
        for (int64_t k = 0; k < LANES; k++)
            sum += parts[k];
    }
    const float contrast = factors[1], offset = sum / plane * (1 - contrast);
    const float saturation = channels == 3 ? factors[2] : 1, rest = 1 - saturation;
    for (int64_t at = 0; at < plane; at += BLOCK) {
        const int64_t n = plane - at < BLOCK ? plane - at : BLOCK;
        for (int64_t c = 0; c < channels; c++) {
            float *restrict pixel = image + c * plane + at;
            for (int64_t i = 0; i < n; i++)
                pixel[i] = within(pixel[i] * contrast + offset);
        }
        grey(image + at, plane, channels, n, shade);
        for (int64_t c = 0; c < channels; c++) {
            float *restrict pixel = image + c * plane + at;
            for (int64_t i = 0; i < n; i++)
                pixel[i] = within(pixel[i] * saturation + shade[i] * rest) * gain[c] + bias[c];
        }
    }
}

static int64_t words(const struct axis *a)
{
    return a->wide * (3 + room(a->in, a->out));
}

static char *place(struct axis *a, char *memory)
{
    a->first = (int32_t *)memory;
    a->base = a->first + a->wide;
    a->lane = a->base + a->wide;
    a->weight = (float *)(a->lane + a->wide);
    return memory + 4 * words(a);
}

/* Returns the number of images for which there was no memory. */
int64_t crop(const uint8_t *images, const int64_t *boxes, const uint8_t *flips,
             const int64_t *sizes, const float *factors,
             const float *gain, const float *bias, const float *ones, const float *zeros,
             float *out, int64_t threads)
{
    const int64_t n = sizes[0], height = sizes[1], width = sizes[2], channels = sizes[3];
    const int64_t h = sizes[4], w = sizes[5];
    int64_t failed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) reduction(+ : failed)
    for (int64_t i = 0; i < n; i++) {
        const int64_t *box = boxes + 4 * i;
        struct axis down = {box[2], h, whole(h)}, across = {box[3], w, whole(w)};
        const int64_t planes = channels * (across.in + PAD);
        const int64_t ring = (room(box[2], h) + 1) * channels * across.wide;
        char *memory = calloc(words(&down) + words(&across) + planes + ring, 4);
        if (!memory) {
            failed++;
            continue;
        }
        float *rest = (float *)place(&across, place(&down, memory));
        fill(&down, 0);
        fill(&across, flips[i]);
        scale(images + ((i * height + box[0]) * width + box[1]) * channels,
              width * channels, channels, &down, &across,
              factors ? ones : gain, factors ? zeros : bias,
              out + i * channels * h * w, rest, rest + planes);
        if (factors)
            recolor(out + i * channels * h * w, h * w, channels, factors + 3 * i, gain, bias);
        free(memory);
    }
    return failed;
}
