/* Preloaded by tests/run.sh --sanitize: libraries that are closed before the process ends have no name in a leak
 * report, and lsan.supp could not tell them from ours. */
int dlclose(void *handle);

int dlclose(void *handle)
{
    (void)handle;
    return 0;
}
