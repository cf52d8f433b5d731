/* Signals that ask the program to stop: SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 only leave a note, which loops read
 * between two pieces of work. A second SIGINT ends the process at once. Nothing here is collective: a launcher may
 * deliver a signal to one rank, to some or to all, so that ranks have to agree on what they read (lifecycle.h). */
#ifndef CATDPO_CORE_STOP_H
#define CATDPO_CORE_STOP_H

/* From now on the signals are caught. After MPI_Init, which may have handlers of its own. */
void stop_catch(void);

/* The first signal that has arrived, or 0. */
int stop_signal(void);

/* "SIGTERM", ... */
const char *stop_name(int signal);

/* The process id of an mpirun above this process on this host, which passes SIGUSR1 on to all ranks; 0 if there is
 * none, as under srun. */
long stop_launcher(void);

#endif
