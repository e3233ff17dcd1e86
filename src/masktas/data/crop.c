/* Crop, resize and flip images of bytes on the CPU, and optionally jitter their colors.

Resizing is separable: `axis` holds the antialiased bilinear weights along one axis. Each image is
processed by one thread, row by row. See `resample.py`.
*/
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__AVX512F__) && !defined(__clang__)
#define LANES 16
#elif defined(__AVX2__) && !defined(__clang__)
#define LANES 8
#else
#define LANES 1                     /* other compilers lack __builtin_shuffle of two vectors */
#endif
#define BLOCK 1024                  /* pixels recolored at a time */
#define PAD (2 * LANES)             /* vector loads may exceed a row by this much */
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

struct axis {                       /* weights of `in` input pixels in `out` output pixels */
    int64_t in, out, wide, taps;    /* wide: out, rounded up to a multiple of LANES */
    int32_t *first;                 /* first input pixel of each output pixel */
    float *weight;                  /* [taps, wide] */
    int32_t *base, *lane;           /* first = base of the vector + lane */
    int near;                       /* whether the inputs of each vector fit in two vectors */
};

static int64_t round_up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }
static int64_t max_taps(int64_t in, int64_t out) { return 2 * ((in + out - 1) / out) + 2; }

/* Set base, lane and near: lanes are relative to the smallest `first` of each vector. */
static void set_lanes(struct axis *a)
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

/* Set the weights of the triangle filter; its radius is the scale, at least one pixel. */
static void set_weights(struct axis *a, int flip)
{
    const double scale = (double)a->in / a->out, support = scale > 1 ? scale : 1;
    const int64_t most = max_taps(a->in, a->out);
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
    set_lanes(a);
}

/* Convert a row of pixels [n, channels] to floats [channels, n + PAD]. */
static void split_channels(const uint8_t *in, int64_t n, int64_t channels, float *out)
{
    const int64_t plane = n + PAD;
    if (channels == 3) {            /* constant strides compile to shuffles */
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

static void resize_row(const float *row, const struct axis *a, float *out)
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

/* Weighted sum of rows, times gain, plus bias. */
static void weighted_sum(const float *const *rows, const float *weights, int64_t taps, int64_t n,
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

/* Resize an image. Each row is resized horizontally once, into a ring buffer of rows. */
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
            split_channels(in + done * stride, across->in, channels, planes);
            for (int64_t c = 0; c < channels; c++)
                resize_row(planes + c * (across->in + PAD), across,
                      ring + (done % slots * channels + c) * across->wide);
        }
        for (int64_t c = 0; c < channels; c++) {
            for (int64_t k = 0; k < slots; k++)
                rows[k] = ring + ((first + k) % slots * channels + c) * across->wide;
            weighted_sum(rows, weights, taps, across->out, gain[c], bias[c],
                out + (c * down->out + y) * across->out);
        }
    }
}

static float clamp(float value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

/* Gray of n <= BLOCK pixels: luminance of three channels, otherwise their mean. */
static void gray(const float *image, int64_t plane, int64_t channels, int64_t n, float *out)
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

/* Mean of the gray of an image. */
static float mean_gray(const float *image, int64_t plane, int64_t channels)
{
    float shade[BLOCK];
    double sum = 0;
    for (int64_t at = 0; at < plane; at += BLOCK) {
        const int64_t n = plane - at < BLOCK ? plane - at : BLOCK;
        gray(image + at, plane, channels, n, shade);
        float parts[LANES] = {0};
        for (int64_t i = 0; i + LANES <= n; i += LANES)
            for (int64_t k = 0; k < LANES; k++)
                parts[k] += shade[i + k];
        for (int64_t i = n / LANES * LANES; i < n; i++)
            sum += shade[i];
        for (int64_t k = 0; k < LANES; k++)
            sum += parts[k];
    }
    return sum / plane;
}

/* Change brightness, contrast and saturation as augment.recolor; then times gain, plus bias.

colors: three factors, then the order in which they are applied.
*/
static void recolor(float *image, int64_t plane, int64_t channels, const float *colors,
                    const float *gain, const float *bias)
{
    float shade[BLOCK];
    for (int place = 0; place < 3; place++) {
        const int kind = colors[3 + place];
        const float factor = kind == 2 && channels != 3 ? 1 : colors[kind], rest = 1 - factor;
        const float offset = kind == 1 ? mean_gray(image, plane, channels) * rest : 0;
        for (int64_t at = 0; at < plane; at += BLOCK) {
            const int64_t n = plane - at < BLOCK ? plane - at : BLOCK;
            if (kind == 2)
                gray(image + at, plane, channels, n, shade);
            for (int64_t c = 0; c < channels; c++) {
                float *restrict pixel = image + c * plane + at;
                const float times = place == 2 ? gain[c] : 1, plus = place == 2 ? bias[c] : 0;
                if (kind == 2)
                    for (int64_t i = 0; i < n; i++)
                        pixel[i] = clamp(pixel[i] * factor + shade[i] * rest) * times + plus;
                else
                    for (int64_t i = 0; i < n; i++)
                        pixel[i] = clamp(pixel[i] * factor + offset) * times + plus;
            }
        }
    }
}

static int64_t num_words(const struct axis *a)
{
    return a->wide * (3 + max_taps(a->in, a->out));
}

static char *assign(struct axis *a, char *memory)
{
    a->first = (int32_t *)memory;
    a->base = a->first + a->wide;
    a->lane = a->base + a->wide;
    a->weight = (float *)(a->lane + a->wide);
    return memory + 4 * num_words(a);
}

/* Return the number of images that failed for lack of memory. */
int64_t crop(const uint8_t *images, const int64_t *boxes, const uint8_t *flips,
             const int64_t *sizes, const float *colors,
             const float *gain, const float *bias, const float *ones, const float *zeros,
             float *out, int64_t threads)
{
    const int64_t n = sizes[0], height = sizes[1], width = sizes[2], channels = sizes[3];
    const int64_t h = sizes[4], w = sizes[5];
    int64_t failed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) reduction(+ : failed)
    for (int64_t i = 0; i < n; i++) {
        const int64_t *box = boxes + 4 * i;
        struct axis down = {box[2], h, round_up(h)}, across = {box[3], w, round_up(w)};
        const int64_t planes = channels * (across.in + PAD);
        const int64_t ring = (max_taps(box[2], h) + 1) * channels * across.wide;
        char *memory = calloc(num_words(&down) + num_words(&across) + planes + ring, 4);
        if (!memory) {
            failed++;
            continue;
        }
        float *rest = (float *)assign(&across, assign(&down, memory));
        set_weights(&down, 0);
        set_weights(&across, flips[i]);
        scale(images + ((i * height + box[0]) * width + box[1]) * channels,
              width * channels, channels, &down, &across,
              colors ? ones : gain, colors ? zeros : bias,
              out + i * channels * h * w, rest, rest + planes);
        if (colors)
            recolor(out + i * channels * h * w, h * w, channels, colors + 6 * i, gain, bias);
        free(memory);
    }
    return failed;
}
