/* SPDX-License-Identifier: Apache-2.0 */
/* What `tidegate probe` makes of two replies: the difference, as text and as a page. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/probing.h"

static json_t *of(const char *text)
{
        json_error_t error;
        json_t *json = json_loads(text, 0, &error);

        cr_assert(json, "%s: %s", error.text, text);
        return json;
}

static json_t *between(const char *first, const char *last)
{
        json_t *a = first ? of(first) : NULL, *b = of(last), *probing = probing_between("flow", 2000, a, b);

        cr_assert(probing);
        json_decref(a);
        json_decref(b);
        return probing;
}

#define READ(count, total, buckets) "{'call':'read','number':0,'count':" count ",'errors':1,'total_ns':" total ",'log2_ns':" buckets "}"
#define NODE(generation, calls) "{'node':'a','generation':" generation ",'lost':0,'calls':[" calls "]}"
#define PROBES(nodes, links) "{'attached':true,'at_ms':9,'nodes':[" nodes "],'links':[" links "]}"

/* JSON with the other quotes. */
static char *quoted(const char *text)
{
        char *copy = strdup(text);

        for (char *p = copy; *p; p++)
                if (*p == '\'')
                        *p = '"';
        return copy;
}

static json_t *difference(const char *first, const char *last)
{
        _cleanup_free_ char *a = first ? quoted(first) : NULL, *b = quoted(last);

        return between(a, b);
}

static const json_t *first_call(const json_t *probing)
{
        return json_array_get(json_object_get(json_array_get(json_object_get(probing, "nodes"), 0), "calls"), 0);
}

static json_int_t number(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

Test(probing, what_was_counted_before_is_not_counted_again)
{
        json_t *p = difference(PROBES(NODE("1", READ("5", "50", "[0,2,3]")), ""), PROBES(NODE("1", READ("9", "95", "[0,2,6,1]")), ""));

        cr_expect_eq(number(first_call(p), "count"), 4);
        cr_expect_eq(number(first_call(p), "total_ns"), 45);
        cr_expect_eq(number(first_call(p), "errors"), 0);
        cr_expect_eq(json_array_size(json_object_get(first_call(p), "log2_ns")), 4);
        json_decref(p);
}

Test(probing, another_life_counts_from_its_beginning)
{
        json_t *p = difference(PROBES(NODE("1", READ("5", "50", "[0,2,3]")), ""), PROBES(NODE("2", READ("3", "30", "[0,3]")), ""));

        cr_expect_eq(number(first_call(p), "count"), 3);
        json_decref(p);
}

Test(probing, the_call_in_which_most_time_was_spent_comes_first_and_one_that_nobody_made_does_not)
{
        static const char other[] = "{'call':'write','number':1,'count':1,'errors':0,'total_ns':900,'log2_ns':[0,0,1]}",
                          none[] = "{'call':'close','number':3,'count':0,'errors':0,'total_ns':0,'log2_ns':[]}",
                          inside[] = "{'call':'futex','number':202,'count':0,'errors':0,'total_ns':0,'log2_ns':[],'now':2,'now_longest_ns':77}";
        char text[2048];
        json_t *p, *calls;

        (void)snprintf(text, sizeof(text), "{'attached':true,'nodes':[{'node':'a','generation':1,'lost':0,'calls':[%s,%s,%s,%s]}],'links':[]}", none, READ("1", "10", "[1]"), inside, other);
        p = difference(NULL, text);
        calls = json_object_get(json_array_get(json_object_get(p, "nodes"), 0), "calls");
        cr_assert_eq(json_array_size(calls), 3);
        cr_expect_str_eq(json_string_value(json_object_get(json_array_get(calls, 0), "call")), "write");
        cr_expect_str_eq(json_string_value(json_object_get(json_array_get(calls, 2), "call")), "futex");
        cr_expect_eq(number(json_array_get(calls, 2), "now"), 2);
        json_decref(p);
}

#define LINK(sampled, depth, age) \
        "{'from':'cam','output':'<b>','to':'det','input':'in','sampled':" sampled ",'one_in':4,'depth_log2':" depth ",'age_log2_ns':" age "}"

#define LOOKED(sampled, empty, depth, age) \
        "{'from':'a','output':'out','to':'b','input':'in','source':'counters','sampled':" sampled ",'taken':0,'one_in':0,'depth_log2':" depth ",'age_log2_ns':" age \
        ",'empty':" empty ",'depth':3,'age_ns':9}"

Test(probing, of_links_that_were_looked_at_it_is_said_what_is_lost, .init = cr_redirect_stdout)
{
        json_t *p = difference("{'attached':false,'nodes':[],'links':[" LOOKED("2", "1", "[1,1]", "[0,0,1]") "]}",
                "{'attached':false,'queue_reason':'no BTF','nodes':[],'links':[" LOOKED("12", "3", "[3,9]", "[0,0,9]") "]}");
        _cleanup_free_ char *page = NULL;
        size_t size;
        FILE *f;

        probing_print(p, false, 12);
        (void)fflush(stdout);
        cr_expect_stdout_eq_str("flow: system calls in 2.0 s\n"
                                "Looked at ten times a second instead of counted. What is lost: how many calls were\n"
                                "made, how many failed, how long each took; a call that is short is seldom seen.\n"
                                "\n"
                                "Queues were looked at ten times a second, not message by message. What is lost:\n"
                                "how deep each message found its queue, and how old it was when it was taken.\n"
                                "\n"
                                "a/out -> b/in: 10 looks, nothing waited in 2\n"
                                "                    count            p50     p99     max         n u    m    s \n"
                                "  were waiting         10              3       3       3\n"
                                "  age of first          8            8ns     8ns     8ns         #             \n"
                                "\n"
                                "Messages are not seen: no BTF\n");
        f = open_memstream(&page, &size);
        cr_expect_eq(probing_page(p, f), 0);
        (void)fclose(f);
        cr_expect(strstr(page, "10 looks instead of messages, nothing waited in 2; ages are of the first that waited"));
        json_decref(p);
}

Test(probing, what_was_looked_at_before_messages_were_seen_is_not_taken_from_them)
{
        json_t *p = difference("{'attached':false,'nodes':[],'links':[" LOOKED("2", "1", "[2]", "[0,0,1]") "]}",
                "{'attached':true,'nodes':[],'links':[{'from':'a','output':'out','to':'b','input':'in','source':'probe','sampled':5,'taken':5,'one_in':1,'depth_log2':[5],'age_log2_ns':[]}]}");

        cr_expect_eq(number(json_array_get(json_object_get(p, "links"), 0), "sampled"), 5);
        json_decref(p);
}

Test(probing, links_and_looks_are_told_apart_from_counts, .init = cr_redirect_stdout)
{
        static const char *const first = "{'attached':false,'reason':'no BTF','nodes':[{'node':'a','generation':1,'calls':[],'lost':0,'sampled':{'looks':10,'threads':10,'outside':2,'other':0,'unseen':0,"
                                         "'calls':[{'call':'read','number':0,'samples':8}]}}],'links':[" LINK("2", "[2]", "[0,0,2]") "]}",
                          *const last = "{'attached':false,'reason':'no BTF','nodes':[{'node':'a','generation':1,'calls':[],'lost':0,'sampled':{'looks':20,'threads':20,'outside':5,'other':0,'unseen':0,"
                                        "'calls':[{'call':'read','number':0,'samples':15}]}}],'links':[" LINK("10", "[4,5,1]", "[0,0,2,8]") "]}";
        json_t *p = difference(first, last), *sampled = json_object_get(json_array_get(json_object_get(p, "nodes"), 0), "sampled");
        _cleanup_free_ char *page = NULL;
        size_t size;
        FILE *f;

        cr_expect_eq(number(sampled, "looks"), 10);
        cr_expect_eq(number(json_array_get(json_object_get(sampled, "calls"), 0), "samples"), 7);
        probing_print(p, false, 12);
        (void)fflush(stdout);
        cr_expect_stdout_eq_str("flow: system calls in 2.0 s\n"
                                "Looked at ten times a second instead of counted. What is lost: how many calls were\n"
                                "made, how many failed, how long each took; a call that is short is seldom seen.\n"
                                "\n"
                                "a, generation 1: where its threads were in 10 looks\n"
                                "  read                     70.0 %  #####################\n"
                                "  in none                  30.0 %  #########\n"
                                "\n"
                                "cam/<b> -> det/in, of one message in 4\n"
                                "                    count            p50     p99     max         n u    m    s \n"
                                "  were waiting          8              3       7       7\n"
                                "  age when taken        8           16ns    16ns    16ns         #             \n");
        f = open_memstream(&page, &size);
        cr_expect_eq(probing_page(p, f), 0);
        (void)fclose(f);
        cr_expect(strstr(page, "cam/&lt;b&gt; &rarr; det/in") && !strstr(page, "<b>"), "names are no markup");
        json_decref(p);
}
