/* `kqfs passwd NAME`: who may log in with a password. Its own options and its own help; the data
 * directory is where the broker's settings say. */
#pragma once

#include <stdbool.h>

/* Is it this command? */
bool kq_passwd_is_asked(int argc, char **argv);

/* Does what the arguments behind `passwd` say. An exit code (enum kq_exit), failures reported. */
int kq_passwd_run(int argc, char **argv);
