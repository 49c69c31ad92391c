/* data_compose/generate.h -- `saffron-data-compose generate`: a click log as Criteo TSV files. */
#ifndef DC_GENERATE_H
#define DC_GENERATE_H

/* argv[0] is what help and messages call the program. Returns the exit status. */
int dc_generate(int argc, char **argv);

#endif
