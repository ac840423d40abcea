/* SPDX-License-Identifier: Apache-2.0 */
/* How `tidegate top` looks: model and choices in, a picture out. Pure. Any size will do; what has no room is left out, least first. */
#ifndef TG_CLI_TOP_VIEW_H
#define TG_CLI_TOP_VIEW_H

#include "cli/picture.h"
#include "cli/top-text.h"
#include "cli/top-ui.h"

/*
 * top_view() - draw on @picture, which is empty
 * @ui:   NULL: a picture that nobody moves in (`--once`): without cursor and keys
 * @text: of a page that has any; NULL: none
 *
 * ui->scroll is brought to where there are lines. The size is the picture's.
 */
void top_view(Picture *picture, const TopModel *model, const TopOrder *order, TopUi *ui, const TopText *text, nsec_t now);

/* top_view_size() - rows and columns in which nothing need be left out. */
void top_view_size(const TopModel *model, const TopOrder *order, bool ascii, int *ret_rows, int *ret_cols);

/* top_view_page_rows() - how far a page leads on a screen of so many rows. */
size_t top_view_page_rows(const TopUi *ui, const TopOrder *order, int rows);

#endif
