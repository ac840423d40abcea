/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "cli/histogram.h"

static Histogram of(const char *json)
{
        json_t *buckets = json_loads(json, 0, NULL);
        Histogram histogram;

        histogram_read(&histogram, buckets);
        json_decref(buckets);
        return histogram;
}

Test(histogram, a_quantile_is_the_upper_end_of_the_bucket_that_has_it)
{
        Histogram h = of("[0, 0, 0, 50, 49, 0, 1]"); /* 8..16, 16..32, 64..128 ns */

        cr_expect_eq(h.sum, 100);
        cr_expect_eq(histogram_quantile(&h, 0), 16);
        cr_expect_eq(histogram_quantile(&h, 0.5), 16);
        cr_expect_eq(histogram_quantile(&h, 0.51), 32);
        cr_expect_eq(histogram_quantile(&h, 0.99), 32);
        cr_expect_eq(histogram_quantile(&h, 1), 128);
        h = of("[]");
        cr_expect_eq(histogram_quantile(&h, 0.5), 0, "of nothing there is none");
}

Test(histogram, what_somebody_sent_may_be_anything)
{
        Histogram h = of("[-5, \"x\", null, 1.5, 7]");

        cr_expect_eq(h.sum, 7);
        cr_expect_eq(h.n[4], 7);
        histogram_read(&h, NULL);
        cr_expect_eq(h.sum, 0);
}

Test(histogram, what_came_since_is_never_less_than_nothing)
{
        Histogram h = of("[5, 7]"), before = of("[3, 9]");
        json_t *json;

        histogram_minus(&h, &before);
        cr_expect_eq(h.n[0], 2);
        cr_expect_eq(h.n[1], 0);
        cr_expect_eq(h.sum, 2);
        json = histogram_json(&h);
        cr_expect_eq(json_array_size(json), 1, "it ends at the last that is not 0");
        json_decref(json);
}

Test(histogram, a_line_stands_below_its_scale)
{
        char line[3 * HISTOGRAM_COLUMNS + 1];
        Histogram h = {};

        h.n[0] = h.n[7] = 4;  /* below 256 ns */
        h.n[10] = 1;          /* 1 us */
        h.n[20] = 64;         /* 1 ms */
        h.n[30] = 8;          /* 1.07 s */
        h.n[62] = 8;
        h.sum = 89;
        cr_expect_str_eq(histogram_scale(), "n u    m    s ");
        cr_expect_str_eq(histogram_line(&h, false, line, sizeof(line)), ". .    #    ..");
        cr_expect_str_eq(histogram_line(&h, true, line, sizeof(line)), "▁ ▁    █    ▁▁");
        h = (Histogram){};
        cr_expect_str_eq(histogram_line(&h, true, line, sizeof(line)), "              ");
}

Test(histogram, times_are_short_and_have_their_unit)
{
        static const struct {
                uint64_t ns;
                const char *text;
        } cases[] = {{0, "0ns"}, {512, "512ns"}, {1024, "1.02us"}, {8388608, "8.39ms"}, {16777216, "16.8ms"}, {268435456, "268ms"}, {2300000000, "2.30s"},
                {UINT64_C(7200000000000), "2.00h"}};
        char text[16];

        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
                cr_expect_str_eq(histogram_format_ns(cases[i].ns, text, sizeof(text)), cases[i].text);
}
