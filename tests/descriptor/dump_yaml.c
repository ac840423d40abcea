/* SPDX-License-Identifier: Apache-2.0 */
/* Prints a YAML file as JSON, as the reader sees it: so that docs/dataflow.schema.json is held against what is really
 * read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "descriptor/yaml.h"

static json_t *to_json(const YamlNode *node)
{
        int64_t whole;
        double number;
        json_t *json;

        switch (node->kind) {
        case YAML_NULL:
                return json_null();
        case YAML_BOOL:
                return json_boolean(strchr("tT", node->text[0]) != NULL);
        case YAML_INT:
                if (yaml_as_int(node, &whole) == 0)
                        return json_integer(whole);
                return json_real(strtod(node->text, NULL));
        case YAML_FLOAT:
                (void)yaml_as_double(node, &number);
                return json_real(__builtin_isfinite(number) ? number : 1e300); /* JSON has no infinity */
        case YAML_STRING:
                return json_string(node->text);
        case YAML_LIST:
                json = json_array();
                for (size_t i = 0; i < node->n; i++)
                        (void)json_array_append_new(json, to_json(node->items[i]));
                return json;
        default:
                json = json_object();
                for (size_t i = 0; i < node->n; i++)
                        (void)json_object_set_new(json, node->pairs[i].key->text, to_json(node->pairs[i].value));
                return json;
        }
}

int main(int argc, char **argv)
{
        _cleanup_(diagnostics_done) Diagnostics diags = DIAGNOSTICS_INIT;
        _cleanup_(arena_done) Arena arena = ARENA_INIT(0);
        _cleanup_(json_decrefp) json_t *json = NULL;
        YamlNode *root = NULL;
        Source *source;

        if (argc != 2 || source_from_file(&source, &arena, argv[1], argv[1], (Span){0}, &diags) != 0 ||
                yaml_parse(&root, &arena, source, &diags) != 0 || diags.n_errors || !root)
                return 1;
        json = to_json(root);
        return json_dumpf(json, stdout, JSON_ENCODE_ANY) == 0 && fflush(stdout) == 0 ? 0 : 1;
}
