/* data_compose/convert.h -- `saffron-data-compose convert`: a job's rows into the binary form. */
#ifndef DC_CONVERT_H
#define DC_CONVERT_H

/* argv[0] is the program's name for messages. Returns the exit status. */
int dc_convert(int argc, char **argv);

#endif
