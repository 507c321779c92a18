/* Prints the table of keys for docs/protocol.md, from the table that the server goes by. */
#include <stdio.h>

#include "net/api.h"
#include "net/message.h"

static void print_versions(int lowest, int highest)
{
    if (lowest == highest)
        printf("%d", lowest);
    else
        printf("%d–%d", lowest, highest);
}

static void print_row(const struct kq_api *api)
{
    printf("| %d | %s | ", api->key, api->message->name);
    print_versions(api->lowest, api->highest);
    printf(" | ");
    if (api->message->flexible <= api->highest)
        printf("%d", api->message->flexible);
    else
        printf("—");
    printf(" | ");
    if (api->refused_below > api->lowest) {
        print_versions(api->lowest, api->refused_below - 1);
        printf(" are listed for old librdkafka only (KAFKA-18659) and end the connection");
    }
    printf(" |\n");
}

int main(void)
{
    const struct kq_api *api;
    printf("| key | name | versions | flexible from | |\n|---|---|---|---|---|\n");
    for (size_t i = 0; (api = kq_api_row(i)); i++)
        print_row(api);
    return 0;
}
