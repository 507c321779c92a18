/* `kqfs export`, with the broker open: runs it, shows how far it is, says what was done. */
#pragma once

#include "broker/broker.h"
#include "broker/exportcommand.h"

/* Returns an exit code (enum kq_exit). */
int kq_export_run(struct kq_broker *broker, const struct kq_export_command *command);
