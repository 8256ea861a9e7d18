-- +goose Up
-- A claim takes a page's invoices in one statement. Where the page has room for
-- the new version of each, none of the indexes is touched: twice as many are
-- claimed and paid in the same time, and after that the table is no larger, since
-- the payment's version takes the room of the first one.
ALTER TABLE invoices SET (fillfactor = 50);
